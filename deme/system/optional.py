"""Optional dependencies, which only some options need."""

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType

from deme.system.errors import MissingInput


def optional_module(name: str, purpose: str, extra: str) -> ModuleType:
    """Return the module `name` of the optional dependencies `extra`.

    `purpose` completes "the library, which ...". Raises MissingInput with the command that installs
    it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, purpose, extra) from error


def check_installed(name: str, purpose: str, extra: str) -> None:
    """Raise MissingInput unless the module `name` is installed; it is not imported."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the package that it is in
        found = None
    if found is None:
        raise _missing(name, purpose, extra)


def _missing(name: str, purpose: str, extra: str) -> MissingInput:
    return MissingInput(
        f"the library `{name}`, which {purpose}, is not installed\n"
        f"type: pip install {requirements_of_extra(extra)}"
    )


def requirements_of_extra(extra: str) -> str:
    """Return what the optional dependencies `extra` are, as pip takes them on a command line."""
    try:
        found = requires("deme-diffusion") or []
    except PackageNotFoundError:  # it is not installed, and runs from its source
        found = []
    pairs = (each.partition(";")[::2] for each in found)
    wanted = [name.strip() for name, marker in pairs if f'"{extra}"' in marker.replace("'", '"')]
    return " ".join(f"'{name}'" for name in wanted) or f"'.[{extra}]'"
