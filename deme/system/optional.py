"""Optional dependencies, which only some options need."""

import importlib
import importlib.util
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
        f"type: pip install 'deme-diffusion[{extra}]'"
    )
