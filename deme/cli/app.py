"""`deme <verb> ...`: find the command, run it, and end with the exit code of its outcome."""

import os
import re
import sys
import traceback

from deme import __version__
from deme.commands import COMMANDS, STAGES, summary
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
from deme.system.streams import tolerant_streams

LEVELS = {  # of messages, by flag
    "--quiet": "WARNING",
    "quiet=true": "WARNING",
    "--verbose": "DEBUG",
    "verbose=true": "DEBUG",
}
TRUST = re.compile(r"[+]{0,2}trust=")  # what no configuration can say, only the user
EXAMPLES = """examples:
  deme reproduce experiments/digits/demo.yaml
  deme train -m experiment=digits/deme             four experts, one job each
  deme merge experiment=digits/merge               then evaluate, then table
  deme train experiment=digits/finetune seed=1 optimizer.lr=1e-4
  deme train --cfg job experiment=digits/deme      show the configuration
  deme improve model=<folder or hub:...> data=<folder> out=<folder>

The commands of the upper half are configured by Hydra: overrides, -m sweeps, --cfg job.
Run the same command to resume; runs that are done are skipped.
--quiet shows warnings only, verbose=true more, debug=true the traceback of an error.
trust=<package> lets a configuration use classes of a package of yours.
exit codes: 0 done, 1 bug, 2 bad configuration, 3 missing input, 4 the work failed,
74 disk, 75 stopped (run the same command to resume), 130 Ctrl-C"""


def usage() -> str:
    """Return the help page."""
    head = f"deme {__version__}: better diffusion models by decouple-then-merge finetuning"
    lines = [head, "", "usage: deme <verb> ...", ""]
    for verbs in (STAGES, COMMANDS):
        lines += [*(f"  {verb:<10} {summary(verb)}" for verb in verbs), ""]
    return "\n".join([*lines, EXAMPLES])


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
    print_error(error)
    return error.exit_code


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = args[0], args[1:]
    if verb in COMMANDS:
        from deme.cli import suite_commands

        return suite_commands.run(verb, rest)
    if verb in STAGES:
        if "-h" not in rest and "--help" not in rest:
            from deme.cli import hydra_app

            return hydra_app.run(verb, rest)
        print(
            f"deme {verb}: {summary(verb)}\n\nOverrides are Hydra's: key=value, group=option, -m "
            f"for sweeps. Show all keys with: deme {verb} --cfg job"
        )
        return 0
    known = [*STAGES, *COMMANDS]
    near = did_you_mean(verb, known)
    raise BadConfig(f"unknown verb {verb!r}; {near}allowed: {', '.join(known)}\ntype: deme --help")
