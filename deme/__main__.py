"""`python -m deme` is `deme`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line; while it is imported, a stop signal ends the program at once."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # of nohup
        signal.signal(signal.SIGHUP, _stop)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, _stop)

    from deme.cli.app import main as run

    return run()


def _stop(signum: int, _frame: FrameType | None) -> None:
    os.write(2, b"deme: stopped; run the same command to resume\n")
    os._exit(130 if signum == signal.SIGINT else 75)


if __name__ == "__main__":
    sys.exit(main())
