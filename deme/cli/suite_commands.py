"""The commands that take or make a suite, two evaluations or a checkpoint: arguments to calls."""

import importlib
import re
from pathlib import Path
from typing import Any

from deme.commands import module

NAMED = re.compile(r"\b([\w.]+)=")  # options, in a usage
ARGUMENTS = {
    "new-suite": "data=<folder> model=<folder> [out=suite.yaml]",
    "prepare": "<suite> [fetch=true] [from=<folder>] [list=true] [runs=<dir>] [paths.<key>=<dir>]",
    "plan": "<suite> [all=true] [jobs=<n>] [tflops=<n>] [runs=<dir>] [paths.<key>=<dir>]",
    "reproduce": "<suite> [jobs=<n>] [minutes=<n>] [runs=<dir>] [results=<dir>] "
    "[paths.<key>=<dir>]",
    "table": "<suite> [runs=<dir>] [results=<dir>] [paths.<key>=<dir>]",
    "report": "<suite or run> [out=<file>.html] [runs=<dir>] [paths.<key>=<dir>]",
    "compare": "<run>[,<run>...] <run>[,<run>...]",
    "ls": "[<name of a suite or folder>] [<key>=<value>...] [sort=<column>] [runs=<dir>] "
    "[json=true] [csv=true]",
    "show": "<run directory, name or id> [runs=<dir>] [json=true]",
    "clean": "[<name of a suite or folder>] [yes=true] [runs=<dir>]",
    "convert": "<checkpoint> out=<folder> [beta_schedule=linear] [size=<pixels>] [ema=true]",
    "publish": "<suite, run directory or folder of runs> logger=<option> [logger.<key>=<value>] "
    "[files=true] [runs=<dir>] [paths.<key>=<dir>]",
    "dashboard": "<suite folder or file> [project=<name>] [entity=<name>] [out=<file>] "
    "[runs=<dir>]",
}


def options_of(verb: str) -> Any:
    """Return the dataclass of what a command takes beside its arguments, None for nothing."""
    from deme.commands.convert import ConvertSettings
    from deme.commands.new_suite import NewSuiteSettings
    from deme.commands.report import ReportOptions
    from deme.runs import DashboardOptions, PrepareOptions, PublishSettings, SuiteOptions
    from deme.runs.settings.listing import CleanOptions, ListOptions, ShowOptions

    options = {
        "new-suite": NewSuiteSettings,
        "prepare": PrepareOptions,
        "report": ReportOptions,
        "publish": PublishSettings,
        "dashboard": DashboardOptions,
        "ls": ListOptions,
        "show": ShowOptions,
        "clean": CleanOptions,
        "convert": ConvertSettings,
    }
    return options.get(verb, SuiteOptions if "<suite>" in ARGUMENTS[verb] else None)


def run(verb: str, args: list[str]) -> int:
    """Run one of these commands and return the exit code."""
    if {"-h", "--help", "--help-all"} & {*args}:
        from deme.cli.help_page import command_page

        print(command_page(verb, ARGUMENTS[verb], options_of(verb)))
        return 0
    command = importlib.import_module(f"deme.commands.{module(verb)}").run
    if "<suite>" not in ARGUMENTS[verb]:
        command(args)
        return 0

    from deme.commands.arguments import split_args
    from deme.runs import PrepareOptions, Suite, SuiteOptions
    from deme.system import expanded

    args = [arg.removeprefix("paths.") if arg.startswith("paths.runs=") else arg for arg in args]
    paths = [arg for arg in args if arg.startswith("paths.")]
    given = [arg for arg in args if arg not in paths]
    example = f"deme {verb} experiments/digits"
    if verb == "prepare":
        place, wanted = split_args(given, PrepareOptions, "suite", example)
        command(Suite.read(Path(place), Path(wanted.runs), paths), wanted)
        return 0
    place, options = split_args(given, SuiteOptions, "suite", example)
    results = expanded(options.results) if options.results is not None else None
    command(Suite.read(Path(place), Path(options.runs), paths, results), options)
    return 0
