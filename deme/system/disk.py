"""What can go wrong when a path is written: no space, no permission, a folder that went away."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from deme.system.errors import DemeError, DiskError, WorkFailed

FULL = (errno.ENOSPC, errno.EDQUOT)
_guarded: dict[Path, int] = {}  # folder -> descriptor of what it was when its work began


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """End with WorkFailed what writes below `folder` once it is moved, deleted or replaced.

    Without this, the next file would make the folder again, and half of one looks like a whole one.
    """
    with disk_errors(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    outer = _guarded.get(folder)
    _guarded[folder] = handle
    try:
        yield
    finally:
        if outer is None:
            del _guarded[folder]
        else:
            _guarded[folder] = outer
        os.close(handle)


def make_parents(path: Path) -> None:
    """Make the folders that `path` lies in; one that is guarded is not made again."""
    guards = [folder for folder in _guarded if path.is_relative_to(folder)]
    if not guards:
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    _check_guards(path)
    place = max(guards, key=lambda folder: len(folder.parts))
    for part in path.parent.relative_to(place).parts:
        place /= part
        place.mkdir(exist_ok=True)


def _check_guards(path: Path) -> None:
    for folder, handle in _guarded.items():
        if path.is_relative_to(folder) and not is_at(handle, folder):
            raise WorkFailed(
                f"{folder} was moved, deleted or replaced while this command worked on it\n"
                "nothing more was written there; run the same command to make it again"
            )


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is the one that is found at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's complaints about writing `path` into one clear message."""
    try:
        yield
    except OSError as error:
        _check_guards(path)
        raise disk_error(path, error) from error
    except DemeError:
        raise
    except Exception as error:
        if (full := _full_disk(error)) is not None:  # torch's writer hides it behind its own error
            raise disk_error(path, full) from error
        raise


def disk_error(path: Path, error: OSError) -> DiskError:
    """Return the error of a file that cannot be written."""
    if error.errno in FULL or os.strerror(errno.ENOSPC) in str(error):  # shutil's list of errors
        return DiskError(
            f"no space left on the disk while writing {path}\nfree some space and run it again"
        )
    return DiskError(
        f"cannot write {path}: {error.strerror or error}\n"
        "choose another place: paths.runs=<dir>, paths.cache=<dir> or out=<file>, whichever it is"
    )


def _full_disk(error: BaseException | None) -> OSError | None:
    """Return the error of a full disk that led to `error`, None for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
