"""A function's keywords as the words of a command, and the command's run."""

import contextlib
import json
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from deme.api.result import Result
from deme.commands import stage_function
from deme.runs import compose_stage
from deme.system import Stopped, log_to_terminal, one_line, signals
from deme.system.errors import Interrupted

PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*")  # a text that needs no quotes


def call(verb: str, settings: Mapping[str, object]) -> Path:
    """Return the directory that `deme <verb>` makes with these settings, or has made already.

    A text is a value, except that ${...} in it refers to another key, as in option files.
    Keys may be nested or have dots: {"optimizer": {"lr": 1e-4}} or {"optimizer.lr": 1e-4}. A string
    for a group names its option. Raises the errors of the command, KeyboardInterrupt for Ctrl-C.
    """
    words = words_of(settings)
    with command([verb, *words]), one_line(verb):
        return stage_function(verb)(compose_stage(verb, words))


def result(verb: str, settings: Mapping[str, object]) -> Result:
    """Return the run that `deme <verb>` makes with these settings."""
    return Result(call(verb, settings))


def words_of(settings: Mapping[str, object]) -> list[str]:
    """Return settings as the words that a command is given."""
    return [f"{key}={_text(value)}" for key, value in _flat(settings)]


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: object) -> str:
    """Return a value as an override of Hydra: texts with their quotes, None as null."""
    if isinstance(value, Result):
        value = value.path
    if isinstance(value, (str, Path)):
        return _quoted(str(value))
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(each) for each in value)}]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a text as Hydra reads it; in its quotes backslashes count before a quote only."""
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "inf", "nan"):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"


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
            raise KeyboardInterrupt("stopped; the same call goes on from here") from stopped
        raise
    finally:
        sys.argv = typed
