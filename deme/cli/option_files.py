"""Keys, defaults and comments of the files of conf/, read as text without Hydra.

Used by `deme <command> --help`, completion and docs/generate.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deme.system import conf_dir

CHOICE = re.compile(r"^ +- (?:override )?/?(\w+): (\S+)", re.MULTILINE)
NOT_SHOWN = ("defaults", "hydra", "stage")


class Key(NamedTuple):
    """A key of an option file: its dotted path, its default as written, and its description."""

    path: str
    default: str
    meaning: str


def keys_of(file: Path) -> Iterator[Key]:
    """Yield the keys of an option file, including groups without a default."""
    parents: list[tuple[int, str]] = []
    above: list[str] = []  # comment lines directly above a key
    lines = file.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)
    for line in lines[first:]:
        if line.lstrip().startswith("# "):
            above.append(line.strip()[2:])
            continue
        text, _, comment = line.partition("  # ")
        comment, above = " ".join([*above, comment]).strip(), []
        match = re.match(r"^( *)([\w/@.]+):(?: (.*))?$", text)
        if not match:
            continue
        indent = len(match[1])
        parents = [parent for parent in parents if parent[0] < indent]
        path = ".".join([*(name for _, name in parents), match[2]])
        parents.append((indent, match[2]))
        if path.split(".")[0] not in NOT_SHOWN and path[:5] != "cell.":
            yield Key(path, (match[3] or "").strip(), comment.strip())


def header(file: Path) -> str:
    """Return the comment at the top of an option file."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(line for line in lines if not line.startswith("@package"))


def purpose(command: str) -> str:
    """Return the description of a command from the top of its file in conf/."""
    return header(conf_dir() / f"{command}.yaml").partition(": ")[2]


def default_choices(command: str) -> dict[str, str]:
    """Return the option groups of a command with their default options."""
    text = (conf_dir() / f"{command}.yaml").read_text()
    return {group: option for group, option in CHOICE.findall(text) if group != "optional"}


def option_files(group: str) -> dict[str, Path]:
    """Return the files of a group's options by name; options in subfolders are <folder>/<name>."""
    folder = conf_dir() / group
    files = sorted(file for file in folder.rglob("*.yaml") if not file.name.startswith("."))
    named = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {name: file for name, file in named.items() if not name.startswith("_")}


def first_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence; "et al." and "..." do not end one."""
    return re.split(r"(?<!\bal)(?<!\.)\.(?:\s|$)", text, maxsplit=1)[0]
