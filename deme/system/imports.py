"""Log a message when torch is first imported, which takes seconds."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from deme.system.console import logger


class _Announcer(importlib.abc.MetaPathFinder):
    """An import hook that finds no module, and logs the first import of torch."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Return None: others find modules."""
        if fullname == "torch":
            sys.meta_path.remove(self)
            logger.info("loading torch ...")
        return None


def announce_torch() -> None:
    """Log a message when this process first imports torch."""
    if "torch" not in sys.modules and not any(isinstance(e, _Announcer) for e in sys.meta_path):
        sys.meta_path.insert(0, _Announcer())
