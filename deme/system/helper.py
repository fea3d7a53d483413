"""A process that helps another: `python -m deme.system.helper <parent> <module> <words>`.

It calls `helper(*words)` of the module, and ends when the process that started it is gone.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import time

from deme.system import DemeError, Stopped, as_deme_error, log_to_terminal, print_error, signals
from deme.system.streams import tolerant_streams

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends
POLL_SECONDS = 0.5
STOP_SECONDS = 3.0  # for saving what was done, after the parent has gone


def end_with(parent: int) -> None:
    """Stop this process as a stop signal does, then end it, once its parent is gone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if signals.received() is None:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(Stopped.exit_code)


def main(parent: str, module: str, *words: str) -> int:
    """Help, and return the exit code."""
    log_to_terminal()
    with tolerant_streams(), signals.handled():
        end_with(int(parent))
        try:
            importlib.import_module(module).helper(*words)
        except (DemeError, OSError, Stopped) as error:
            known = as_deme_error(error) if isinstance(error, OSError) else error
            if not isinstance(known, Stopped):  # the first process says that it was stopped
                print_error(known)
            return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
