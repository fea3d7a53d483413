"""Run the commands that Hydra does not configure: parse their arguments and call them."""

import importlib
import re
from pathlib import Path
from typing import Any

from deme.commands import ARGUMENTS, module

GROUP = re.compile(r"(launcher|logger|progress)[.=]")  # of `deme reproduce`
NAMED = re.compile(r"\b([\w.]+)=")  # options, in a usage


def options_of(command: str) -> Any:
    """Return the dataclass of a command's options, None for a command without options."""
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
    return options.get(command, SuiteOptions if "<suite>" in ARGUMENTS[command] else None)


def run(command: str, args: list[str]) -> int:
    """Run one of these commands and return the exit code."""
    if {"-h", "--help", "--help-all"} & {*args}:
        from deme.cli.help_page import command_page

        print(command_page(command, ARGUMENTS[command], options_of(command)))
        return 0
    run_command = importlib.import_module(f"deme.commands.{module(command)}").run
    if "<suite>" not in ARGUMENTS[command]:
        run_command(args)
        return 0

    from deme.commands.arguments import split_args, without_paths
    from deme.runs import Suite
    from deme.system import BadConfig, expanded

    if flags := [arg for arg in args if arg.startswith("-")]:
        raise BadConfig(
            f"deme {command} has no {flags[0]}: a suite lists its rows and seeds itself\n"
            f"type: deme {command} <suite> [<key>=<value> ...]"
        )
    words = [arg for arg in args if command == "reproduce" and GROUP.match(arg)]
    given, paths = without_paths([arg for arg in args if arg not in words])
    example = f"deme {command} experiments/digits"
    place, options = split_args(given, options_of(command), "suite", example)
    results = getattr(options, "results", None)  # deme prepare writes none
    folder = expanded(results) if results is not None else None
    suite = Suite.read(Path(place), Path(options.runs), paths, folder)
    run_command(*(suite, options, words) if words else (suite, options))
    return 0
