"""The commands, one module each, and modules that serve them, such as arguments.py.

A command finds out whether its run is done before it imports torch. The first sentence of a
module's docstring is the command's text on the help page.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

STAGES = (  # configured by Hydra: conf/<verb>.yaml
    "train", "merge", "search", "average", "improve", "evaluate", "sample", "export", "stats",
    "verify", "analyze", "doctor",
)  # fmt: skip
COMMANDS = (  # they take no Hydra overrides
    "new-suite", "prepare", "plan", "reproduce", "table", "report", "compare", "publish",
    "dashboard", "ls", "show", "clean", "convert",
)  # fmt: skip

Stage = Callable[[dict[str, object]], Path]


def stage_function(verb: str) -> Stage:
    """Return the function `run` of a command."""
    function: Stage = importlib.import_module(f"deme.commands.{module(verb)}").run
    return function


def module(verb: str) -> str:
    """Return the name of a command's module."""
    return verb.replace("-", "_")


def summary(verb: str) -> str:
    """Return the first sentence of a command's docstring, without importing the command."""
    docstring = Path(__file__).with_name(f"{module(verb)}.py").read_text().split('"""')[1]
    sentence = " ".join(docstring.split()).partition(". ")[0].rstrip(".")
    return sentence.removeprefix(f"`deme {verb}`: ")
