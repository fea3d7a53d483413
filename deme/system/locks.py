"""Locks between processes, which the system drops when a process ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from deme.system.disk import disk_errors, is_at, make_parents
from deme.system.errors import DiskError


@contextlib.contextmanager
def locked(
    path: Path, waiting: Callable[[str], None] | None, remove: bool = False
) -> Iterator[bool]:
    """Hold an exclusive lock on `path` for the block, and yield whether it is held.

    If another process holds it, `waiting` is called once, with the owner's name, and then this call
    waits; with None it does not wait. With `remove` the file is deleted at the end. Raises
    DiskError, on a disk without locks, too.
    """
    handle, held = _taken(path, waiting)
    try:
        if held:
            with contextlib.suppress(OSError):  # a full disk: the name is only for messages
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield held
    finally:
        if held and remove and is_at(handle, path):
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(handle)


def _taken(path: Path, waiting: Callable[[str], None] | None) -> tuple[int, bool]:
    """Open a lock file and lock it; return its descriptor and whether the lock is held."""
    told = False
    while True:
        handle = _open(path)
        try:
            held = _flock(handle, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not held and waiting is not None:
                if not told:
                    owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
                    waiting(owner or "a process")
                    told = True
                held = _flock(handle, path, fcntl.LOCK_EX)
            if not held or is_at(handle, path):
                return handle, held
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was deleted meanwhile: another process may have locked a new one


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `locked`, as far as this user can see."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _flock(handle, path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    with disk_errors(path):
        make_parents(path)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _flock(handle: int, path: Path, kind: int) -> bool:
    """Take a lock; False if another process holds it and `kind` does not wait."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DiskError(
            f"{path} cannot be locked: {error.strerror or error}\n"
            "without locks two processes would do the same work; choose a disk that has them: "
            "paths.runs=<dir>, paths.cache=<dir> or out=<file>, whichever it is"
        ) from error
    return True
