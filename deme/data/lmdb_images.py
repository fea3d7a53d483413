"""Images in an LMDB, as LSUN's (Yu et al., arXiv 1506.03365): each value is an image file."""

import os
import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deme.data.decode import MAX_BYTES, Unreadable
from deme.system import MissingInput, WorkFailed, first_line, optional_module

if TYPE_CHECKING:
    from lmdb import Environment

FILE = "data.mdb"
NEEDED = "reads LSUN's LMDB", "lsun"  # what the library does, and the extra that installs it
MIN_ENTRY = 8  # bytes that any entry takes

# by folder: a process may open a database once, and forked processes must not use its handle
_handles: dict[str, "tuple[int, Environment]"] = {}
_opening = threading.Lock()


def _handle(folder: str) -> "Environment":
    """Return this process's handle of a database, opened at first use."""
    with _opening:
        found = _handles.get(folder)
        if found is None or found[0] != os.getpid():
            if found is not None:
                found[1].close()
            handle = optional_module("lmdb", *NEEDED).open(
                folder, readonly=True, lock=False, readahead=False, meminit=False
            )
            _handles[folder] = os.getpid(), handle
        return _handles[folder][1]


def _keys(folder: str, size: int) -> list[bytes]:
    """Return the keys of a database whose file has `size` bytes.

    Raises lmdb.Error for one that says it is larger: its pages are mapped into memory, and reading
    one that is not there kills the process.
    """
    database = _handle(folder)
    stat = database.stat()
    num_entries = stat["entries"]
    needed = max((database.info()["last_pgno"] + 1) * stat["psize"], num_entries * MIN_ENTRY)
    damaged = optional_module("lmdb", *NEEDED).Error
    if size < needed:
        raise damaged(f"it is cut off: it has {size:,} bytes and needs {needed:,}")
    with database.begin() as transaction:
        found = transaction.cursor().iternext(values=False)
        keys = [bytes(key) for key in islice(found, num_entries + 1)]
    if len(keys) != num_entries:
        raise damaged(f"it has another number of entries than {num_entries:,}, which it states")
    return keys


class LmdbImages:
    """The entries of an LMDB folder in the order of their keys."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._place = folder, str(folder.resolve())
        lmdb = optional_module("lmdb", *NEEDED)
        try:
            self.keys = _keys(self._place, (folder / FILE).stat().st_size)
        except lmdb.Error as error:
            raise WorkFailed(
                f"{folder / FILE} is not an LMDB that can be read: {first_line(error)}\n"
                "unpack it again"
            ) from error
        if not self.keys:
            raise MissingInput(f"{folder / FILE} holds no images")

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        return f"{self.folder}, key {self.keys[index].decode(errors='backslashreplace')}"

    def read(self, index: int) -> bytes:
        with _handle(self._place).begin(buffers=True) as transaction:
            value = transaction.get(self.keys[index], b"")
            if len(value) > MAX_BYTES:
                raise Unreadable(self.name(index), f"it has {len(value):,} bytes")
            return bytes(value)

    def listing(self) -> str:
        """Return path, number of entries, size and time of change of the database."""
        stat = (self.folder / FILE).stat()
        return f"{self.folder} {len(self)} {stat.st_size} {stat.st_mtime_ns}"
