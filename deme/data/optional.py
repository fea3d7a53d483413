"""Libraries that only some data needs."""

import importlib
from types import ModuleType

from deme.system.errors import MissingInput


def needed(name: str, what: str) -> ModuleType:
    """Return the module `name`, which does `what`. Raises MissingInput saying how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInput(
            f"the library `{name}`, which {what}, is not installed\ntype: pip install 'deme-diffusion[lsun]'"
        ) from error
