"""Stop signals: at once where nothing can be lost, at the next step inside `graceful`.

A process whose jobs run in other processes forwards signals to them (`forwarded`).
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from deme.system.errors import Interrupted, Preempted, Stopped

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_pending: Stopped | None = None
_received: Stopped | None = None
_polling = False
_forward: Callable[[int], bool] | None = None
_number, _time = 0, 0.0  # of the last signal
_is_job = False
DUPLICATE_SECONDS = 1.0  # in which Ctrl-C may arrive from terminal and parent
AGAIN_SECONDS = 0.05  # after which a signal is sent again whose error Python has ignored


def stopped(exit_code: int) -> Stopped:
    """Return the error that ends the program with this exit code."""
    if exit_code == Interrupted.exit_code:
        return Interrupted("interrupted; run the same command to resume")
    return Preempted("stopped on request; run the same command to resume")


def receive(signum: int, _frame: FrameType | None) -> None:
    """Handle a stop signal: raise its error now, or keep it for the next poll inside `graceful`."""
    global _pending, _received, _number, _time
    again = _pending is not None
    if again and _is_job and time.monotonic() - _time < DUPLICATE_SECONDS:
        return
    _number, _time = signum, time.monotonic()
    _pending = _received = stopped(130 if signum == signal.SIGINT else 75)
    if _forward is not None and not again and _forward(signum):
        return
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
    before, hook = install(), sys.unraisablehook
    sys.unraisablehook = lambda found: _send_again(found.exc_value) or hook(found)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _send_again(error: BaseException | None) -> bool:
    """Send this process a signal again if its error was raised where Python ignores errors.

    That is in a destructor (`__del__`), which may run at any moment. Returns whether it is so.
    """
    if not isinstance(error, Stopped):
        return False
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), _number))
    again.daemon = True
    again.start()
    return True


def install() -> dict[signal.Signals, Any]:
    """Handle the stop signals from now on, and return the former handlers.

    It is called again after a library has put its own handlers in place of ours.
    """
    wanted = [s for s in _STOP if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    return {signum: signal.signal(signum, receive) for signum in wanted}


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """Only note a signal in the block, which polls `pending()`; a second one stops at once."""
    global _polling, _pending
    _polling, _pending = True, None
    try:
        yield
    finally:
        _polling = False


@contextlib.contextmanager
def forwarded(forward: Callable[[int], bool]) -> Iterator[None]:
    """Call `forward` with a signal in the block, and raise its error after the block.

    It returns whether the signal was forwarded; if not, it is handled as usual. A second
    signal stops at once.
    """
    global _pending, _forward
    _forward, passed = forward, False

    def call(signum: int) -> bool:
        nonlocal passed
        passed = forward(signum)
        return passed

    _forward = call
    try:
        yield
    finally:
        _forward = None
    if passed and (error := _pending) is not None:
        clear()
        raise error


@contextlib.contextmanager
def in_job() -> Iterator[None]:
    """Handle the stop signals in a job that another program has started in this process.

    After the work is saved, that program's own handler is called: it may start the job again.
    """
    if signal.getsignal(signal.SIGTERM) is receive:  # a job of this program
        yield
        return
    global _is_job, _number
    theirs = {int(signum): signal.getsignal(signum) for signum in _STOP}
    _is_job, _number = True, 0
    try:
        with handled():
            yield
    except Stopped:
        handler = theirs.get(_number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(_number, None)
        raise
    finally:
        _is_job = False


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
