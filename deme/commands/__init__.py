"""The commands, one module each, and helper modules such as arguments.py.

A command checks whether its run is done before it imports torch. The first sentence of a module's
docstring is the command's description on the help page.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

STAGES = (  # configured by Hydra: conf/<command>.yaml
    "train", "merge", "search", "average", "improve", "evaluate", "sample", "export", "stats",
    "verify", "analyze", "doctor",
)  # fmt: skip
ARGUMENTS = {  # of the commands that take no Hydra overrides
    "new-suite": "data=<folder> model=<folder> [out=suite.yaml]",
    "prepare": "<suite> [fetch=true] [from=<folder>] [list=true] [runs=<dir>] [paths.<key>=<dir>]",
    "plan": "<suite> [all=true] [jobs=<n>] [tflops=<n>] [runs=<dir>] [paths.<key>=<dir>]",
    "reproduce": "<suite> [jobs=<n>] [launcher=<option>] [launcher.<key>=<value>] [retry=failed] "
    "[logger=<option>] [progress.<key>=<value>] [minutes=<n>] [runs=<dir>] [results=<dir>] "
    "[paths.<key>=<dir>]",
    "table": "<suite> [runs=<dir>] [results=<dir>] [paths.<key>=<dir>]",
    "report": "<suite or run> [out=<file>.html] [runs=<dir>] [paths.<key>=<dir>]",
    "compare": "<run>[,<run>...] <run>[,<run>...]",
    "publish": "<suite, run directory or folder of runs> logger=<option> [logger.<key>=<value>] "
    "[files=true] [runs=<dir>] [paths.<key>=<dir>]",
    "dashboard": "<suite folder or file> [project=<name>] [entity=<name>] [out=<file>] "
    "[runs=<dir>]",
    "ls": "[<name of a suite or folder>] [<key>=<value>...] [sort=<column>] [runs=<dir>] "
    "[json=true] [csv=true]",
    "show": "<run directory, name or id> [runs=<dir>] [json=true]",
    "clean": "[<name of a suite or folder>] [yes=true] [runs=<dir>]",
    "convert": "<checkpoint> out=<folder> [beta_schedule=linear] [size=<pixels>] [ema=true] "
    "[config=<folder>]",
}
COMMANDS = tuple(ARGUMENTS)

Stage = Callable[[dict[str, object]], Path]


def stage_function(command: str) -> Stage:
    """Return the function `run` of a command."""
    function: Stage = importlib.import_module(f"deme.commands.{module(command)}").run
    return function


def module(command: str) -> str:
    """Return the name of a command's module."""
    return command.replace("-", "_")


def summary(command: str) -> str:
    """Return the first sentence of a command's docstring, without importing the command."""
    docstring = Path(__file__).with_name(f"{module(command)}.py").read_text().split('"""')[1]
    sentence = " ".join(docstring.split()).partition(". ")[0].rstrip(".")
    return sentence.removeprefix(f"`deme {command}`: ")
