"""Libraries that only some data sets need."""

import importlib
from types import ModuleType

from deme.system import MissingInput


def optional_module(name: str, purpose: str) -> ModuleType:
    """Return the module `name`. Raises MissingInput with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingInput(
            f"the library `{name}`, which {purpose}, is not installed\n"
            "type: pip install 'deme-diffusion[lsun]'"
        ) from error
