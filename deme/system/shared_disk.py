"""Test whether the disk of runs has what several processes rely on: file locks and renames.

Locks that exclude other processes on one machine may not exclude those of another machine. So every
worker holds a lock while it works, and checks that it sees the locks of workers elsewhere.
"""

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from deme.system.disk import disk_errors, make_parents
from deme.system.errors import DiskError
from deme.system.locks import is_locked, locked

WORKERS = ".workers"  # folder of the locks of a suite's workers
HEARTBEAT_SECONDS = 5.0  # between updates of the time of a worker's lock file
STALE_SECONDS = 30.0  # after which a worker without an update counts as dead
TRY_LOCK = (
    "import fcntl, sys\n"
    "try: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except OSError: sys.exit(0)\n"
    "sys.exit(9)"
)


def check_disk(folder: Path) -> None:
    """Raise DiskError unless locks exclude other processes, and renames replace files.

    The files that it writes into `folder` are deleted.
    """
    place = folder / f".disk-check-{uuid.uuid4().hex[:8]}"
    with locked(place, None, remove=True):
        found = subprocess.run([sys.executable, "-c", TRY_LOCK, str(place)], check=False)
        if found.returncode == 9:
            raise DiskError(
                f"locks in {folder} do not exclude other processes: two would do the same work\n"
                "choose another disk: paths.runs=<dir>"
            )
        old, new = place.with_suffix(".old"), place.with_suffix(".new")
        with disk_errors(folder):
            old.write_text("old")
            new.write_text("new")
            new.replace(old)
            text = old.read_text()
            old.unlink()
        if text != "new":
            raise DiskError(
                f"a rename in {folder} does not replace a file\n"
                "choose another disk: paths.runs=<dir>"
            )


@contextlib.contextmanager
def registered_worker(folder: Path) -> Iterator[None]:
    """Hold the lock of a worker during the block, and keep the time of its file up to date.

    Raises DiskError if the lock of a worker on another machine cannot be seen here.
    """
    make_parents(folder / "x")
    check_disk(folder)
    own = folder / f"{os.uname().nodename}-{os.getpid()}.worker"
    stop = threading.Event()

    def heartbeat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                own.touch()

    with locked(own, None, remove=True):
        own.touch()
        check_others(folder, own)
        thread = threading.Thread(target=heartbeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
    with contextlib.suppress(OSError):  # of other workers
        folder.rmdir()


def check_others(folder: Path, own: Path) -> None:
    """Raise DiskError if the lock of a live worker on another machine cannot be seen here."""
    now, host = own.stat().st_mtime, os.uname().nodename  # by the clock of the disk
    for other in folder.glob("*.worker"):
        with contextlib.suppress(FileNotFoundError):
            is_alive = now - other.stat().st_mtime < STALE_SECONDS
            machine = other.name.rpartition("-")[0]
            if is_alive and machine != host and not is_locked(other) and other.exists():
                raise DiskError(
                    f"locks in {folder} are not shared between {host} and {machine}: both would do "
                    "the same work\nuse one machine, or a disk with shared locks: paths.runs=<dir>"
                )
