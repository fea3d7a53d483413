"""`deme <command> ...`: find the command, run it, and return the exit code of its outcome."""

import os
import re
import sys
import traceback

from deme import __version__
from deme.commands import COMMANDS, STAGES
from deme.system import (
    BadConfig,
    DemeError,
    Stopped,
    as_deme_error,
    did_you_mean,
    log_to_terminal,
    print_error,
    signals,
)
from deme.system.errors import DiskError, Interrupted
from deme.system.imports import announce_torch
from deme.system.streams import tolerant_streams

LEVELS = {  # of messages, by flag
    "--quiet": "WARNING",
    "quiet=true": "WARNING",
    "--verbose": "DEBUG",
    "verbose=true": "DEBUG",
}
TRUST = re.compile(r"[+]{0,2}trust=")  # what no configuration can say, only the user
HELP = {"-h", "--help", "--help-all"}


def main(argv: list[str] | None = None) -> int:
    """Run `deme` with these arguments (default: the command line's) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    with tolerant_streams() as lost:
        code = _exit_code(args)
        if code == 0 and (error := lost()) is not None:
            text = f"standard output cannot be written: {error.strerror}\nthe work itself is done"
            return _failed(DiskError(text))
        return code


def _exit_code(args: list[str]) -> int:
    debug = "debug=true" in args
    levels = [LEVELS[arg] for arg in args if arg in LEVELS]
    options = (*LEVELS, "debug=true", "debug=false", "verbose=false", "quiet=false")
    trusted = [arg.partition("=")[2] for arg in args if TRUST.match(arg)]
    if trusted:  # helper processes inherit it
        os.environ["DEME_TRUST"] = ",".join([os.environ.get("DEME_TRUST", ""), *trusted])
    try:
        with signals.handled():
            log_to_terminal(levels[-1] if levels else "INFO")
            announce_torch()
            return _dispatch([a for a in args if a not in options and not TRUST.match(a)])
    except (DemeError, Stopped) as error:
        hidden = signals.received() if isinstance(error, BadConfig) else None
        return _failed(hidden or error, debug)
    except KeyboardInterrupt:
        return _failed(signals.stopped(Interrupted.exit_code), debug)
    except Exception as error:
        if (stop := signals.received()) is not None:
            return _failed(stop, debug)
        if not isinstance(error, OSError):
            raise
        return _failed(as_deme_error(error), debug)


def _failed(error: DemeError | Stopped, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    if not error.is_reported:
        print_error(error)
    return error.exit_code


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["help"] and len(args) > 1:
        args = [*args[1:2], "--help"]
    if not args or args[0] in (*HELP, "help"):
        from deme.cli.help_page import overview

        print(overview())
        return 0
    if args[0] in ("-V", "--version"):
        print(__version__)
        return 0
    command, rest = args[0], args[1:]
    if command in COMMANDS:
        from deme.cli import suite_commands

        return suite_commands.run(command, rest)
    if command in STAGES:
        if HELP & {*rest}:
            from deme.cli.help_page import stage_page

            print(stage_page(command, "--help-all" in rest))
            return 0
        from deme.cli import hydra_app

        return hydra_app.run(command, rest)
    if command == "completion":
        from deme.cli import completion

        return completion.run(rest)
    known = [*STAGES, *COMMANDS, "completion"]
    near = did_you_mean(command, known)
    raise BadConfig(
        f"unknown command {command!r}; {near}allowed: {', '.join(known)}\ntype: deme --help"
    )
