"""Files that are either whole or absent, and content hashes. Standard library only.

Everything is written under a temporary name next to its destination and renamed, so a kill at any
moment leaves the old file or the new one. Temporary names are random and are opened exclusively:
several writers of one file do not meet, and no link is followed. They name the machine, because on
some shared disks a lock is seen on its own machine only.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from deme.system.disk import check_guards, disk_errors, is_at, make_parents
from deme.system.locks import is_locked
from deme.system.reading import read_jsonl

T = TypeVar("T")

MACHINE = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]
TEMPORARY = re.compile(rf"\..*\.{MACHINE}[0-9a-f]{{16}}\.tmp", re.DOTALL)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux

_tidied: set[Path] = set()  # folders where this process has looked for leftovers


@contextlib.contextmanager
def _temporary(path: Path, folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Make the file or folder that becomes `path`; yield its name and a descriptor.

    It is deleted if the block raises, and its lock, by which `remove_leftovers` knows it from those
    of killed processes, is held until the block ends.
    """
    partial, handle = _claimed(path, folder)
    try:
        yield partial, handle
    except BaseException:
        _remove(partial)
        raise
    finally:
        os.close(handle)


def _claimed(path: Path, folder: bool) -> tuple[Path, int]:
    if path.parent not in _tidied:
        _tidied.add(path.parent)
        remove_leftovers(path.parent)
    flags = os.O_DIRECTORY | os.O_NOFOLLOW if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL
    while True:
        partial = _temporary_name(path)
        if folder:
            partial.mkdir()
        try:
            handle = os.open(partial, flags, 0o666)
        except FileNotFoundError:
            if folder:
                continue  # taken for a leftover before it was locked
            raise
        with contextlib.suppress(OSError):  # a disk without locks: leftovers stay there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if is_at(handle, partial):
            return partial, handle
        os.close(handle)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name[:50]}.{MACHINE}{secrets.token_hex(8)}.tmp")


def _remove(place: Path) -> None:
    with contextlib.suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes of this machine were writing into `folder`.

    These are temporary names that no process locks. Every folder is looked through when a process
    first writes into it.
    """
    for place in _temporaries(folder):
        with contextlib.suppress(OSError):
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)
            finally:
                os.close(handle)


def leftovers(folder: Path) -> list[Path]:
    """Return the files that `remove_leftovers` would delete."""
    return [place for place in _temporaries(folder) if not is_locked(place)]


def _temporaries(folder: Path) -> list[Path]:
    """Return the entries of a folder that have temporary names of this machine."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry) for entry in entries if TEMPORARY.fullmatch(entry.name)]
    return []


@contextlib.contextmanager
def atomic(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open `path` for writing; it appears whole when the block ends, or not at all if it raises.

    `sync`: wait until the disk has it, so that it is whole after a power cut, too.
    """
    with disk_errors(path):
        make_parents(path)
        with _temporary(path) as (partial, handle):
            with open(os.dup(handle), "wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(handle)
            check_guards(path)
            partial.replace(path)


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


def write_folder(
    path: Path, fill: Callable[[Path], None], check: Callable[[], None] = lambda: None
) -> None:
    """Let `fill` write a folder under a temporary name, then rename it to `path`.

    An older folder is replaced, unless `check`, called just before, raises. Of several processes
    the last one's folder stays. Where disk or system cannot exchange two folders (Linux can), a
    kill between two renames leaves neither.
    """
    with disk_errors(path):
        make_parents(path)
        with _temporary(path, folder=True) as (partial, _):
            fill(partial)
            check_guards(path)
            while not _renamed(partial, path):
                check()
                if _exchanged(partial, path):
                    _remove(partial)  # the older one
                    break
                older = _temporary_name(path)
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    path.rename(older)
                _remove(older)
        remove_leftovers(path.parent)


def _renamed(partial: Path, path: Path) -> bool:
    """Rename a folder unless another one lies there; return whether it was renamed."""
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return whether that could be done."""
    with contextlib.suppress(AttributeError):  # another system
        call = ctypes.CDLL(None).renameat2
        names = os.fsencode(one), os.fsencode(other)
        return bool(call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
    return False


def append_line(path: Path, line: str) -> None:
    """Append one line.

    A kill or a full disk can cut the last line only, which `reading.read_jsonl` drops.
    """
    with disk_errors(path):
        make_parents(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o644)
        try:
            data = (line + "\n").encode()
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)


def reopen_jsonl(
    path: Path, kind: type[T], wanted: Callable[[T], bool] = lambda _: True
) -> list[T]:
    """Return the rows of a jsonl file that are wanted, and leave only these in it.

    A last line cut by a kill goes, too. A missing file is empty, and not made.
    """
    rows = [row for row in read_jsonl(path, kind) if wanted(row)]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


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
    """Return the sha256 of a text, which may hold a file name that is not UTF-8."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def is_weights(file: Path) -> bool:
    """Whether a file of a model folder holds tensors, by its name."""
    return file.suffix in (".safetensors", ".bin")


def link_weights(source: str, target: str) -> None:
    """Give a file of weights a second name where the disk can.

    Others are copied: they are small, and edited in place.
    """
    copy = link_or_copy if is_weights(Path(source)) else shutil.copyfile
    copy(source, target)


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name where the disk can, else copy it."""
    with contextlib.suppress(OSError):
        os.link(Path(source).resolve(), target)
        return
    shutil.copyfile(source, target)
