"""Images in an LMDB, as LSUN's (Yu et al., arXiv 1506.03365): each value is an image file."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from deme.data.optional import optional_module
from deme.system import MissingInput, WorkFailed, first_line

if TYPE_CHECKING:
    from lmdb import Environment

FILE = "data.mdb"
PURPOSE = "reads LSUN's LMDB"

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
            handle = optional_module("lmdb", PURPOSE).open(
                folder, readonly=True, lock=False, readahead=False, meminit=False
            )
            _handles[folder] = os.getpid(), handle
        return _handles[folder][1]


class LmdbImages:
    """The entries of an LMDB folder in the order of their keys."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._place = folder, str(folder.resolve())
        lmdb = optional_module("lmdb", PURPOSE)
        try:
            with _handle(self._place).begin() as transaction:
                self.keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
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
        with _handle(self._place).begin() as transaction:
            return bytes(transaction.get(self.keys[index], b""))

    def listing(self) -> str:
        """Return path, number of entries, size and time of change of the database."""
        stat = (self.folder / FILE).stat()
        return f"{self.folder} {len(self)} {stat.st_size} {stat.st_mtime_ns}"
