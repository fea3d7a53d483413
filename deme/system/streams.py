"""Standard output and error that may be closed, gone or full while the work goes on."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import TextIO


class _Tolerant:
    """A standard stream that drops what cannot be written, so that the work goes on.

    `error` is why: its reader has gone (a closed pipe, a closed terminal), or its disk is full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.error = error
            with open(os.devnull, "w") as nowhere:  # takes what is buffered, and what follows
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _opened(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a standard stream that spells out what its encoding does not have.

    Python has none (None) where it was closed when the program began.
    """
    if stream is None:
        return open(descriptor, "w", errors="backslashreplace", closefd=False)
    if isinstance(stream, TextIOWrapper):
        with contextlib.suppress(OSError):  # it is flushed, and its reader may have gone
            stream.reconfigure(errors="backslashreplace")
    return stream


@contextlib.contextmanager
def tolerant_streams() -> Iterator[Callable[[], OSError | None]]:
    """Go on in the block when standard output or error cannot be written.

    Yields a function that returns why results on standard output were lost, None if they were not,
    or if the reader is gone: the reader of a pipe may stop whenever it has seen enough.
    """
    for number in range(3):  # one that is closed would be the number of the next file
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    output, error = (_Tolerant(_opened(stream, n)) for n, stream in enumerate(before, start=1))
    sys.stdout, sys.stderr = output, error

    def lost() -> OSError | None:
        output.flush()
        if output.error is not None and output.error.errno not in (errno.EPIPE, errno.EIO):
            return output.error
        return None

    try:
        yield lost
    finally:
        lost()
        sys.stdout, sys.stderr = before
