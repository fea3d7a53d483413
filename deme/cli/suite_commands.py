"""The commands that take a suite, two evaluations or a checkpoint: arguments to calls."""

import importlib
from pathlib import Path

from deme.commands import summary

ARGUMENTS = {
    "plan": "<suite> [all=true] [jobs=<n>] [tflops=<n>] [runs=<dir>] [paths.<key>=<dir>]",
    "reproduce": "<suite> [jobs=<n>] [minutes=<n>] [runs=<dir>] [results=<dir>] "
    "[paths.<key>=<dir>]",
    "table": "<suite> [runs=<dir>] [results=<dir>] [paths.<key>=<dir>]",
    "compare": "<run>[,<run>...] <run>[,<run>...]",
    "convert": "<checkpoint> out=<folder> [beta_schedule=linear] [size=<pixels>] [ema=true]",
}


def usage(verb: str) -> str:
    """Return the help of one command."""
    note = "\na suite: experiments/<table> or a .yaml file (docs/suites.md)" * (
        "<suite>" in ARGUMENTS[verb]
    )
    return f"usage: deme {verb} {ARGUMENTS[verb]}\n\n{summary(verb)}{note}"


def run(verb: str, args: list[str]) -> int:
    """Run plan, reproduce, table, compare or convert and return the exit code."""
    if "-h" in args or "--help" in args:
        print(usage(verb))
        return 0
    command = importlib.import_module(f"deme.commands.{verb}").run
    if "<suite>" not in ARGUMENTS[verb]:
        command(args)
        return 0

    from deme.commands.arguments import split_args
    from deme.runs import Suite, SuiteOptions
    from deme.system import expanded

    args = [arg.removeprefix("paths.") if arg.startswith("paths.runs=") else arg for arg in args]
    paths = [arg for arg in args if arg.startswith("paths.")]
    given = [arg for arg in args if arg not in paths]
    place, options = split_args(given, SuiteOptions, "suite", f"deme {verb} experiments/digits")
    results = expanded(options.results) if options.results is not None else None
    command(Suite.read(Path(place), Path(options.runs), paths, results), options)
    return 0
