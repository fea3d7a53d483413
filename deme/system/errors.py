"""What can go wrong for a user, each kind with the exit code it ends the program with.

A message is one to three lines: what was given, what is allowed, what to type.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


class DemeError(Exception):
    """Base of all errors that a user can correct; any other is a bug (exit code 1).

    `is_reported`: whether another process of the same training prints it.
    """

    exit_code = 1
    is_reported = False


class BadConfig(DemeError, ValueError):
    """The configuration asks for something impossible or unknown."""

    exit_code = 2


class MissingInput(DemeError):
    """A file or a run that the work needs does not exist yet."""

    exit_code = 3


class WorkFailed(DemeError):
    """The work itself failed: NaN loss, damaged weights."""

    exit_code = 4


class NotFinite(WorkFailed):
    """Something that was computed is NaN or infinite."""


class DiskError(DemeError):
    """The disk is full or a path cannot be written."""

    exit_code = 74


class Stopped(BaseException):
    """The process was asked to stop.

    Not an Exception, so that no library's `except Exception` swallows it. `is_reported` is that of
    DemeError.
    """

    exit_code = 75
    is_reported = False


class Preempted(Stopped):
    """The process was asked to stop; run the same command to resume."""


class Interrupted(Stopped):
    """Ctrl-C; run the same command to resume."""

    exit_code = 130


def of_exit_code(code: int) -> type[DemeError]:
    """Return the kind of error that ends the program with this exit code."""
    kinds = (BadConfig, MissingInput, WorkFailed, DiskError)
    return next((kind for kind in kinds if kind.exit_code == code), DemeError)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the machine's, was not enough."""
    return (
        isinstance(error, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or (
            isinstance(error, RuntimeError)
            and any(text in str(error) for text in ("out of memory", "can't allocate memory"))
        )
    )


RUN_NOTE = "run: "  # prefix of an error's note with the directory of its run


def note_run(error: BaseException, run: Path) -> None:
    """Record in an error the run directory that it belongs to."""
    error.add_note(f"{RUN_NOTE}{run}")


def run_of(error: BaseException) -> Path | None:
    """Return the run directory that an error belongs to, None if it belongs to none."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(RUN_NOTE)]
    return Path(notes[-1].removeprefix(RUN_NOTE)) if notes else None


MAX_SHOWN = 20  # lines of a message that lists all mistakes
# of libraries' messages: settings that switch a check off
UNSAFE = re.compile(
    r"weights_only|allow_pickle|pickle\.load|trust_remote_code|use_safetensors|safe_serialization|"
    r"set_int_max_str_digits|MAX_IMAGE_PIXELS|LOAD_TRUNCATED|ignore_mismatched_sizes|"
    r"low_cpu_mem_usage|KMP_DUPLICATE|verify=False|strict=False|DISABLE_\w*(SSL|CHECK|VERIFY)"
)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's kind if it has none.

    Advice to switch a check off is left out.
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    parts = re.split(r"(?<=[.;!])\s+", line)
    safe = " ".join(part for part in parts if not UNSAFE.search(part)).strip().rstrip(";")
    return safe or type(error).__name__


def first_lines(lines: Sequence[str]) -> str:
    """Return the first lines of a long message, and how many more there are."""
    more = len(lines) - MAX_SHOWN
    return "\n".join([*lines[:MAX_SHOWN], *([f"... and {more} more"] if more > 0 else [])])


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return "did you mean 'x'? " for a near miss of `given` among `allowed`, else ""."""
    close = difflib.get_close_matches(given, [*allowed], n=2, cutoff=0.6)
    other = next((word for word in close if word != given), None)
    return f"did you mean '{other}'? " if other is not None else ""
