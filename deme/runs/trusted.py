"""Which code a configuration may run.

`_target_` can name anything that Python can import, and a run directory or a suite may be somebody
else's. Built is only what the option files of conf/ name, and what lies in a package that the user
trusts: `trust=<package>` on the command line, $DEME_TRUST, or `trust:` in conf/local/default.yaml.
What a run directory, a suite or another configuration file says of trust does not count.
"""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra

from deme.system import BadConfig, conf_dir, read_yaml, shown

VARIABLE = "DEME_TRUST"  # packages, separated by commas; helper processes inherit it
TARGET = re.compile(r"""(?m)^[^#\n]*\b_target_["']?\s*:\s*["']?([\w.]+)""")
LOCAL = "local/default.yaml"  # of conf/, the user's own

logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # its errors are raised, too


def trusted_packages() -> list[str]:
    """Return the packages that the user trusts. Raises BadConfig for what is no name of one."""
    given = re.split(r"[\s,\[\]]+", f"{os.environ.get(VARIABLE, '')},{_joined(local_trust())}")
    packages = [name for name in given if name]
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")):
            raise BadConfig(
                f"trust takes the names that packages are imported by, got {name!r}\n"
                "type: trust=<package>, such as trust=my_package"
            )
        if _is_pythons(name):
            raise BadConfig(
                f"trust takes packages that define options, and {name} is part of Python itself\n"
                "type: trust=<package>, such as trust=my_package"
            )
    return packages


def local_trust() -> object:
    """Return what conf/local/default.yaml says of trust, None if it says nothing."""
    file = conf_dir() / LOCAL
    return read_yaml(file, dict[str, object]).get("trust") if file.is_file() else None


def _joined(names: object) -> str:
    return ",".join(map(str, names)) if isinstance(names, list) else str(names or "")


def option_files(folder: Path) -> list[Path]:
    """Return the YAML files in a folder, without hidden ones: an editor's, or dangling links."""
    found = (file for file in folder.rglob("*.yaml") if not file.name.startswith("."))
    return sorted(file for file in found if file.is_file())


def targets_in(folder: Path) -> frozenset[str]:
    """Return every `_target_` that the YAML files in a folder name."""
    texts = (file.read_text(errors="replace") for file in option_files(folder))
    return frozenset(name for text in texts for name in TARGET.findall(text))


@functools.cache
def option_targets() -> frozenset[str]:
    """Return what the option files of conf/ name, those that the user added there included."""
    return targets_in(conf_dir())


def check_targets(node: object) -> None:
    """Raise BadConfig for a `_target_` anywhere in a configuration that may not be built."""
    packages = trusted_packages()
    for place, target in _targets(node):
        if not isinstance(target, str):
            raise BadConfig(f"{place} must be a text; got {shown(target)}")
        if target not in option_targets() and not _within(target, packages):
            package = target.rpartition(".")[0] or "<package>"
            advice = f"type, if you trust whoever wrote it: trust={package:.200}"
            if _is_pythons(target):
                advice = "no option is part of Python itself: use nothing of whoever wrote this"
            raise BadConfig(
                f"{place}={target:.200} is not an option of conf/, and its package is not trusted: "
                f"code that a configuration names there is imported and run\n{advice}"
            )


def _targets(node: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key of every `_target_` in a configuration, and what it names."""
    pairs = node.items() if isinstance(node, Mapping) else ()
    for key, value in enumerate(node) if isinstance(node, (list, tuple)) else pairs:
        if key == "_target_":
            yield f"{place}{key}", value
        else:
            yield from _targets(value, f"{place}{key}.")


def _is_pythons(name: str) -> bool:
    """Whether a name lies in Python's standard library, which can run anything."""
    return name.partition(".")[0] in sys.stdlib_module_names


def _within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def find_target(target: str) -> Callable[..., Any]:
    """Import what a checked `_target_` names. Raises BadConfig if it is not there.

    Of a trusted package it must be defined in it: what its modules have imported is not theirs.
    """
    try:
        found = hydra.utils.get_object(target)
    except (ImportError, ValueError) as error:
        raise BadConfig(f"{target} cannot be imported: {' '.join(str(error).split())}") from error
    home = str(getattr(found, "__module__", None))
    if not callable(found):
        raise BadConfig(f"{target} is neither a class nor a function")
    if target not in option_targets() and not _within(home, trusted_packages()):
        raise BadConfig(
            f"{target} comes from {home}: what a trusted package has imported is not trusted\n"
            "name a class or function that is defined in the package"
        )
    return found
