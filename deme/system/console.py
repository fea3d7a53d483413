"""What the program says: progress and messages on standard error, results on standard output.

Modules write messages with `logger` (`logger.info`, `logger.warning`); `log_to_terminal` is called once by the command line.
In a program that does not call it, such as a notebook, Python's own logging settings decide.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger("deme")

LEVEL_VARIABLE = "DEME_LOG_LEVEL"  # for the processes that a command starts
SECONDS_BETWEEN_LINES = 15.0  # of the progress of one step, where there is no terminal

_bars: "Progress | None" = None  # one live display for all steps that are under way


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Write records to whatever `sys.stderr` is at that moment, above a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if _bars is not None:
            _bars.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
            return
        self.stream = sys.stderr
        super().emit(record)


class _Format(logging.Formatter):
    """A plain line on a terminal; elsewhere with the time. Warnings and errors say that they are."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{level}{record.getMessage()}"
        return text if sys.stderr.isatty() else f"{time.strftime('%H:%M:%S')} {text}"


def log_to_terminal(level: str | None = None) -> None:
    """Show messages from `level` on ("DEBUG", "INFO", "WARNING"; None: as the process that started this one)."""
    chosen = level or os.environ.get(LEVEL_VARIABLE, "INFO")
    os.environ[LEVEL_VARIABLE] = chosen
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(_Format())
        logger.addHandler(handler)
    logger.setLevel(chosen)
    logger.propagate = False


def print_result(text: str) -> None:
    """Write a line of a command's result to standard output."""
    print(text, flush=True)


class Bar(Protocol):
    """The progress of one step of the work."""

    def advance(self, count: float = 1, **values: object) -> None:
        """Count `count` more units as done; `values` are shown beside the bar: loss="0.012"."""
        ...


@contextlib.contextmanager
def progress(name: str, total: float | None, unit: str = "", start: float = 0) -> Iterator[Bar]:
    """Show how far a long step is: a bar on a terminal, elsewhere a line every 15 seconds.

    `total` is the number of units (None: unknown), `start` how many of them were done before this process came.
    """
    if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        with _live_bar(name, total, unit, start) as bar:
            yield bar
    else:
        yield _Lines(name, total, unit, start)


class _Lines:
    def __init__(self, name: str, total: float | None, unit: str, start: float) -> None:
        self.name, self.total, self.unit, self.start, self.done = name, total, unit, start, start
        self.began = self.said = time.monotonic()

    def advance(self, count: float = 1, **values: object) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES:
            return
        self.said = now
        rate = (self.done - self.start) / (now - self.began)
        parts = [
            f"{self.done:,.0f}/{self.total:,.0f} {self.unit}"
            if self.total
            else f"{self.done:,.0f} {self.unit}"
        ]
        parts += [f"{rate:.3g}/s"]
        if self.total and rate > 0:
            parts.append(f"{max(0.0, self.total - self.done) / rate:,.0f} s left")
        parts += [f"{key} {value}" for key, value in values.items()]
        logger.info("%s: %s", self.name, ", ".join(part.strip() for part in parts))


class _LiveBar:
    def __init__(
        self, bars: "Progress", name: str, total: float | None, unit: str, start: float
    ) -> None:
        self.bars = bars
        self.task = bars.add_task(name, total=total, completed=start, unit=unit, values="")  # type: ignore[arg-type]

    def advance(self, count: float = 1, **values: object) -> None:
        self.bars.update(
            self.task,
            advance=count,
            values=", ".join(f"{key} {value}" for key, value in values.items()),
        )


@contextlib.contextmanager
def _live_bar(name: str, total: float | None, unit: str, start: float) -> Iterator[Bar]:
    global _bars
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class _Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    outer = _bars
    if outer is None:
        _bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=Console(stderr=True),
            transient=True,
        )
        _bars.start()
    assert _bars is not None
    bar = _LiveBar(_bars, name, total, unit, start)
    try:
        yield bar
    finally:
        _bars.remove_task(bar.task)
        if outer is None:
            _bars.stop()
            _bars = None
