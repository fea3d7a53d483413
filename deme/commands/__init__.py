"""What each verb does. A stage decides whether its run is done before it imports torch."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Stage = Callable[[dict[str, Any]], Path]


def stage_function(verb: str) -> Stage:
    """Return deme.commands.<verb>.run."""
    function: Stage = importlib.import_module(f"deme.commands.{verb}").run
    return function
