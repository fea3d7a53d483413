"""What can go wrong with a path: no space, no permission, no such name, a folder that went away."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from deme.system.errors import BadConfig, DemeError, DiskError, MissingInput, WorkFailed

FULL = (errno.ENOSPC, errno.EDQUOT)
ELSEWHERE = (
    "choose another place: paths.runs=<dir>, paths.cache=<dir> or out=<file>, whichever it is"
)
_guarded: dict[Path, int] = {}  # folder -> descriptor of what it was when its work began


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """End with WorkFailed the work below `folder` once that is moved, deleted or replaced.

    Without this, the next file would make the folder again, and half of one looks like a whole one.
    """
    with disk_errors(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    outer = _guarded.get(folder)
    _guarded[folder] = handle
    try:
        yield
    except Exception:
        check_guards(folder)  # whatever was missed first
        raise
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
    check_guards(path)
    place = max(guards, key=lambda folder: len(folder.parts))
    for part in path.parent.relative_to(place).parts:
        place /= part
        place.mkdir(exist_ok=True)


def check_guards(path: Path) -> None:
    """Raise WorkFailed if a guarded folder that `path` lies in is not the one that it was."""
    for folder, handle in _guarded.items():
        if path.is_relative_to(folder) and not is_at(handle, folder):
            raise WorkFailed(
                f"{folder} was moved, deleted or replaced while this command worked on it\n"
                "nothing more was written there; move it back to go on, or run the same command "
                "to start again"
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
        check_guards(path)
        raise disk_error(path, error) from error
    except DemeError:
        raise
    except Exception as error:
        if (full := full_disk(error)) is not None:  # torch's writer hides it behind its own error
            raise disk_error(path, full) from error
        raise


def exists(place: str | Path) -> bool:
    """Whether a path leads to something that may be looked at.

    What cannot be a path, such as a name that is too long, leads to nothing.
    """
    with contextlib.suppress(OSError, ValueError):
        return Path(place).exists()
    return False


def expanded(place: str) -> Path:
    """Return the path that a user typed, ~ expanded. Raises BadConfig for ~ of an unknown user."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise BadConfig(
            f"{place} cannot be a path: {str(error).rstrip('.')}\n"
            f"type: ./{place} if this is its name"
        ) from error


def as_deme_error(error: DemeError | OSError) -> DemeError:
    """Return the error itself, or the one that says what the operating system refused.

    Raises an OSError that is of no file: a library's.
    """
    if isinstance(error, DemeError):
        return error
    if error.errno is None:
        raise error
    what, reason = error.filename or "a file", error.strerror or error
    if isinstance(error, FileNotFoundError):
        return MissingInput(f"{what} does not exist")
    return DiskError(f"cannot use {what}: {reason}\n{ELSEWHERE}")


def disk_error(path: Path, error: OSError) -> DemeError:
    """Return the error of a file that cannot be written, or of one that it is made from."""
    if error.errno in FULL or os.strerror(errno.ENOSPC) in str(error):  # shutil's list of errors
        return DiskError(
            f"no space left on the disk while writing {path}\nfree some space and run it again"
        )
    source, reason = error.filename, error.strerror or error
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        source, _, reason = error.args[0][0]  # of each file that was not copied
    if isinstance(source, str | bytes | os.PathLike) and not _meets(source, path):
        return MissingInput(f"{os.fsdecode(source)} cannot be read: {reason}")
    return DiskError(f"cannot write {path}: {reason}\n{ELSEWHERE}")


def _meets(source: str | bytes | os.PathLike[str], path: Path) -> bool:
    """Whether `source` lies in the folder of `path`, or is one that `path` lies in."""
    found, written = Path(os.fsdecode(source)).absolute(), path.absolute()
    return found.is_relative_to(written.parent) or written.is_relative_to(found)


def full_disk(error: BaseException | None) -> OSError | None:
    """Return the full-disk error that caused `error`, None for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
