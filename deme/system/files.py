"""Files that are either whole or absent, content hashes and locks. Standard library only.

Everything is written under a temporary name next to its destination and renamed, so a kill at any
moment leaves the old file or the new one. Writers of one destination are serialised by `locked`, so
the temporary name is fixed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from deme.system.errors import DiskError


def temporary(path: Path) -> Path:
    """Return the name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's complaints about writing `path` into one clear message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left on the disk while writing {path}\nfree some space and run it again"
            ) from error
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}\n"
            "choose another place: paths.runs=<dir>, paths.cache=<dir> or out=<file>, "
            "whichever it is"
        ) from error


@contextlib.contextmanager
def atomic(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open `path` for writing; it appears whole when the block ends, or not at all if it raises.

    `sync`: wait until the disk has it, so that it is whole after a power cut, too.
    """
    partial = temporary(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes, sync: bool = True) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic(path, sync) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder under a temporary name, then rename it to `path`.

    An older `path` is replaced.
    """
    partial = temporary(path)
    with disk_errors(path):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            fill(partial)
            if path.exists():
                shutil.rmtree(path)
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write.

    A kill can cut the last line only, which `reading.read_jsonl` drops.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (line + "\n").encode())
        finally:
            os.close(handle)


def write_jsonl(path: Path, rows: Sequence[object]) -> None:
    """Write `rows` to a jsonl file, whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def sha256(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's sorted (relative name, sha256) pairs."""
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        return sha256_text(
            "".join(f"{p.relative_to(path).as_posix()} {sha256(p)}\n" for p in names)
        )
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; one file under two names is not read."""
    return one.samefile(other) or (
        one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)
    )


def sha256_text(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_weights(file: Path) -> bool:
    """Whether a file of a model folder holds tensors, by its name."""
    return file.suffix in (".safetensors", ".bin")


def link_weights(source: str, target: str) -> None:
    """Give a file of weights a second name where the disk can.

    Others are copied: they are small, and edited in place.
    """
    if is_weights(Path(source)):
        with contextlib.suppress(OSError):
            os.link(Path(source).resolve(), target)
            return
    shutil.copyfile(source, target)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], None] | None) -> Iterator[bool]:
    """Hold an exclusive lock on `path` for the block, and yield whether it is held.

    The system drops the lock when the process ends. If somebody else holds it, `waiting` is called
    once, with the owner's name, and then this call waits; with None it does not wait.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115 (closed below)
    with handle:
        held = _acquire(handle)
        if not held and waiting is not None:
            handle.seek(0)
            waiting(handle.read().strip() or "another process")
            fcntl.flock(handle, fcntl.LOCK_EX)
            held = True
        if held:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            handle.flush()
        yield held


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of `locked`."""
    if not path.exists():
        return False
    with open(path) as handle:
        return not _acquire(handle, fcntl.LOCK_SH)


def _acquire(handle: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock unless another process holds it; return whether it was taken."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
