"""A function's keywords as the words of a command, and the command's run."""

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


def call(verb: str, settings: Mapping[str, object]) -> Path:
    """Return the directory that `deme <command>` makes with these settings, or has made already.

    A text is a value, except that ${...} in it refers to another key, as in option files.
    Keys may be nested or have dots: {"optimizer": {"lr": 1e-4}} or {"optimizer.lr": 1e-4}. A string
    for a group names its option. Raises the errors of the command, KeyboardInterrupt for Ctrl-C.
    """
    words = words_of(settings)
    with command([verb, *words]), one_line(verb):
        return stage_function(verb)(compose_stage(verb, words))


def result(verb: str, settings: Mapping[str, object]) -> Result:
    """Return the run that `deme <command>` makes with these settings."""
    return Result(call(verb, settings))


def words_of(settings: Mapping[str, object]) -> list[str]:
    """Return settings as the words that a command is given."""
    return [f"{key}={as_value(value)}" for key, value in flat(settings).items() if value != {}]


@contextlib.contextmanager
def command(words: list[str]) -> Iterator[None]:
    """Run a command inside of the block: its run.json names it, and Ctrl-C keeps its work."""
    log_to_terminal("INFO")
    typed, sys.argv = sys.argv, ["deme", *words]
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with (
            signals.handled() if is_main else contextlib.nullcontext(),
            warnings.catch_warnings(),
        ):
            # of tqdm in a notebook without ipywidgets; nothing here shows its bars
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield
    except Stopped as stopped:
        if isinstance(stopped, Interrupted):
            raise KeyboardInterrupt("stopped; the same call resumes from here") from stopped
        raise
    finally:
        sys.argv = typed
