"""Output of the program: progress and messages on standard error, results on standard output.

Modules write messages with `logger` (`logger.info`, `logger.warning`). The command line calls
`log_to_terminal` once; in other programs Python's own logging settings decide what is shown. In a
notebook each function of `import deme` shows one line that is updated.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich import progress as columns
from rich.console import Console
from rich.text import Text

from deme.system import files
from deme.system.notebook import StatusLine, is_notebook
from deme.system.units import duration

# Characters that move the cursor, colour or hide text, or reverse its direction; half surrogates
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_LINE = 10_000  # characters of a line on the terminal
MAX_NAME = 300  # characters of a name in a table or a message

logger = logging.getLogger("deme")
T = TypeVar("T")

LEVEL_VARIABLE = "DEME_LOG_LEVEL"  # the log level for processes that a command starts
SECONDS_BETWEEN_LINES = 15.0  # of the progress of one step, where there is no bar
SECONDS_TO_FIRST_LINE = 3.0  # the first line shows that work has begun, and its speed

_bars: columns.Progress | None = None  # one live display for all steps that are under way
_bars_allowed = False  # in the process that the user started: two processes cannot share a line
_line: StatusLine | None = None  # in a notebook, where a function of `import deme` is at work
_details = False  # whether what is said now is a detail of a larger command's work


def printable(text: str) -> str:
    """Return a text as it may be printed, whoever wrote what is in it.

    Control characters but newlines and tabs are spelled out (\\x1b), endless lines are cut.
    """
    spelled = CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return "\n".join(shortened(line, MAX_LINE) for line in spelled.split("\n"))


def single_line(text: str, longest: int = MAX_NAME) -> str:
    """Return a text without line breaks, tabs and control characters, cut to a length."""
    return shortened(" ".join(printable(text).replace("\t", " ").split("\n")), longest)


def shortened(text: str, longest: int = MAX_NAME) -> str:
    """Return a text, its end replaced by the number of its characters if it is too long."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def print_error(error: object) -> None:
    """Write what went wrong to standard error."""
    print(f"deme: {printable(str(error))}", file=sys.stderr)


class _TerminalHandler(logging.Handler):
    """Write records to whatever `sys.stderr` is at that moment, above a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if _line is not None and record.levelno < logging.WARNING:
            _line.show(single_line(record.getMessage()))
            return
        if _details and record.levelno < logging.WARNING and not hasattr(record, "progress"):
            return
        if _bars is None:
            print(self.format(record), file=sys.stderr, flush=True)
        elif not hasattr(record, "progress"):  # the bar shows it already
            _bars.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)

    def format(self, record: logging.LogRecord) -> str:
        text = _with_level(record)
        return text if sys.stderr.isatty() else f"{time.strftime('%H:%M:%S')} {text}"


class _FileHandler(logging.Handler):
    """Append records to a file, whose folder need not exist yet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        files.append_line(self.path, f"{now} {_with_level(record)}")


def _with_level(record: logging.LogRecord) -> str:
    level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
    return f"{level}{printable(record.getMessage())}"


def log_to_terminal(level: str | None = None) -> None:
    """Show messages from `level` on: "DEBUG", "INFO" or "WARNING".

    None is for helper processes: the level of the command that started this process, and lines
    instead of bars.
    """
    global _bars_allowed
    _bars_allowed = level in ("DEBUG", "INFO")
    os.environ[LEVEL_VARIABLE] = level = level or os.environ.get(LEVEL_VARIABLE, "INFO")
    for handler in [each for each in logger.handlers if isinstance(each, _TerminalHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_TerminalHandler(level))
    logger.setLevel(level)
    logger.propagate = False


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append every message, details too, to `path`, with date and time, while the block runs."""
    handler, level = _FileHandler(path), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)  # the terminal has a level of its own
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextlib.contextmanager
def details() -> Iterator[None]:
    """Show only warnings and progress while the block runs, which is a step of a larger command.

    Log files have all messages, and so has a terminal that shows details (DEBUG).
    """
    global _details
    before, _details = _details, os.environ.get(LEVEL_VARIABLE) != "DEBUG"
    try:
        yield
    finally:
        _details = before


def print_result(text: str) -> None:
    """Write a line of a command's result to standard output, unless it is a detail.

    In a notebook the returned result replaces this line.
    """
    if not _details and _line is None:
        print(printable(text), flush=True)


@contextlib.contextmanager
def one_line(name: str) -> Iterator[None]:
    """In a notebook, show messages of the block as one updated line, and at the end its duration.

    Warnings appear below the line. Outside a notebook, and inside another such block, this does
    nothing.
    """
    global _line
    if _line is not None or not is_notebook():
        yield
        return
    _line, outcome = StatusLine(name), "stopped after"
    try:
        yield
        outcome = "done in"
    finally:
        _line.end(outcome)
        _line = None


class Bar:
    """The progress of one step of the work: messages now and then, and on a terminal a bar."""

    def __init__(self, name: str, total: float | None, unit: str, start: float) -> None:
        self.name, self.total, self.unit, self.start, self.done = name, total, unit, start, start
        self.began = time.monotonic()
        self.last_line = self.began - max(0.0, SECONDS_BETWEEN_LINES - SECONDS_TO_FIRST_LINE)
        self.shown: tuple[columns.Progress, columns.TaskID] | None = None
        # the time left, if it does not follow from the rate of units
        self.seconds_left: Callable[[], float | None] | None = None

    @property
    def rate(self) -> float:
        """Units per second since the step began, 0 before the first."""
        return (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)

    def advance(self, count: float = 1, **values: object) -> None:
        """Count `count` more units as done; `values` are shown next to the bar: loss="0.012"."""
        extras = [f"{key} {value}" for key, value in values.items()]
        if self.shown is not None:
            bars, task = self.shown
            bars.update(task, advance=count, values=", ".join(extras))
        self.done += count
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            logger.info("%s", self._text(extras), extra={"progress": True})
        elif _line is not None:
            _line.show(self._text(extras))

    def _text(self, extras: list[str]) -> str:
        rate = self.rate
        of = f"/{self.total:,.0f}" if self.total else ""
        parts = [f"{self.done:,.0f}{of} {self.unit}".strip(), f"{rate:.3g}/s"]
        if self.seconds_left is not None:
            left = self.seconds_left()
            parts[1:] = [f"{duration(left)} left in total"] if left is not None else []
        elif self.total and rate > 0:
            parts.append(f"{duration(max(0.0, self.total - self.done) / rate)} left")
        return f"{self.name}: {', '.join([*parts, *extras])}"


@contextlib.contextmanager
def progress(name: str, total: float | None, unit: str = "", start: float = 0) -> Iterator[Bar]:
    """Show the progress of a long step: as a bar on a terminal.

    Elsewhere, and in log files, a line after 3 seconds and then every 15 seconds. `total`: the
    number of units (None: unknown); `start`: how many of them an earlier process did.
    """
    global _bars
    bar = Bar(name, total, unit, start)
    if not (_bars_allowed and sys.stderr.isatty()):
        yield bar
        return
    bars, outermost = _bars or _new_bars(), _bars is None
    if outermost:
        _bars = bars
        bars.start()
    task = bars.add_task(name, total=total, completed=int(start), unit=unit, values="")
    bar.shown = bars, task
    try:
        yield bar
    finally:
        bars.remove_task(task)
        if outermost:
            bars.stop()
            _bars = None


def tracked(
    items: Iterable[T], name: str, total: float, unit: str = "", start: float = 0
) -> Iterator[T]:
    """Yield items, and show how many of them are done, as `progress` does."""
    with progress(name, total, unit, start) as bar:
        for item in items:
            yield item
            bar.advance()


class _Rate(columns.ProgressColumn):
    def render(self, task: columns.Task) -> Text:
        return Text(f"{task.speed:.3g}/s" if task.speed else "")


def _new_bars() -> columns.Progress:
    return columns.Progress(
        columns.TextColumn("{task.description}"),
        columns.BarColumn(),
        columns.MofNCompleteColumn(),
        columns.TextColumn("{task.fields[unit]}"),
        _Rate(),
        columns.TimeRemainingColumn(),
        columns.TextColumn("{task.fields[values]}"),
        console=Console(stderr=True),
        transient=True,
    )
