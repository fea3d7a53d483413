"""Stop signals: at once where nothing can be lost, at the next step inside `graceful`."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from deme.system.errors import Interrupted, Preempted, Stopped

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_pending: Stopped | None = None
_received: Stopped | None = None
_polling = False


def stopped(exit_code: int) -> Stopped:
    """Return the error that ends the program with this exit code."""
    if exit_code == Interrupted.exit_code:
        return Interrupted("interrupted; run the same command to resume")
    return Preempted("stopped on request; run the same command to resume")


def receive(signum: int, _frame: FrameType | None) -> None:
    """Handle a stop signal: raise its error now, or keep it for the next poll inside `graceful`."""
    global _pending, _received
    again = _pending is not None
    _pending = _received = stopped(130 if signum == signal.SIGINT else 75)
    if not _polling or again:
        error, _pending = _pending, None
        raise error


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle the stop signals for the block (main thread only) and put the former handlers back.

    SIGHUP is left alone where it is ignored: that is what nohup is for.
    """
    global _received
    _received = None
    wanted = [s for s in _STOP if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, receive) for signum in wanted}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """Only note a signal in the block, which polls `pending()`; a second one stops at once."""
    global _polling, _pending
    _polling, _pending = True, None
    try:
        yield
    finally:
        _polling = False


def pending() -> Stopped | None:
    """Return the error that a received signal stands for, if there was one."""
    return _pending


def received() -> Stopped | None:
    """Return the last signal's error, also after it was raised.

    A library's clean-up may have failed on it and hidden it.
    """
    return _received


def clear() -> None:
    """Forget a received signal."""
    global _pending, _received
    _pending = _received = None
