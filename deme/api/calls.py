"""Run a command from a function call: keywords become overrides of the command."""

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from deme.api.result import Result
from deme.commands import stage_function
from deme.runs import as_value, compose_stage, flat
from deme.system import Stopped, log_to_terminal, one_line, signals
from deme.system.errors import Interrupted


def call(command: str, settings: Mapping[str, object]) -> Path:
    """Run `deme <command>` with these settings, or find its finished run; return the run directory.

    Keys may be nested or dotted: {"optimizer": {"lr": 1e-4}} or {"optimizer.lr": 1e-4}. A string
    for a group names one of its options. Strings are taken literally, except that ${...} refers to
    another key, as in option files. Raises the errors of the command, and KeyboardInterrupt for
    Ctrl-C.
    """
    words = as_overrides(settings)
    with running_command([command, *words]), one_line(command):
        return stage_function(command)(compose_stage(command, words))


def result(command: str, settings: Mapping[str, object]) -> Result:
    """Run `deme <command>` with these settings, and return the run."""
    return Result(call(command, settings))


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """Return settings as overrides of a command: {"a": {"b": 1}} becomes ["a.b=1"]."""
    return [f"{key}={as_value(value)}" for key, value in flat(settings).items() if value != {}]


@contextlib.contextmanager
def running_command(words: list[str]) -> Iterator[None]:
    """Run the block as a command, `words` being its command line.

    run.json records this command line, and Ctrl-C saves the work before it raises
    KeyboardInterrupt.
    """
    log_to_terminal("INFO")
    typed, sys.argv = sys.argv, ["deme", *words]
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with (
            signals.handled() if is_main else contextlib.nullcontext(),
            warnings.catch_warnings(),
        ):
            # tqdm warns in a notebook without ipywidgets, but its bars are not shown here
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    except Stopped as stopped:
        if isinstance(stopped, Interrupted):
            raise KeyboardInterrupt("stopped; the same call resumes from here") from stopped
        raise
    finally:
        sys.argv = typed
