"""Which files of a folder count: one rule for images, tables and the hash of a data folder.

Links are followed, each folder is read once, and hidden or temporary names are left out.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deme.system.disk import exists
from deme.system.errors import MissingInput

UNFINISHED = ("~", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp")
HIDDEN = "hidden or temporary"
REPEATED = "links to folders that are read already"
BROKEN = "links to nothing"
SPECIAL = "pipes or devices"


class Listing(NamedTuple):
    """The files of a folder, sorted by path, and what is left out, by reason."""

    files: list[Path]
    left_out: dict[str, list[Path]]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out: .x, x~, x.tmp, x.part and the like."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def list_files(folder: Path) -> Listing:
    """Return the files below a folder, also those behind links.

    A folder that several links lead to is read once, under its own place if that is below `folder`;
    a link to a folder that `folder` lies in is not followed. Raises MissingInput for a folder that
    cannot be read.
    """
    files: list[Path] = []
    left_out: dict[str, list[Path]] = defaultdict(list)
    seen = {_place_on_disk(parent) for parent in folder.resolve().parents}
    links = [folder]
    while links:
        tops, links = sorted(links), []
        pending = tops[::-1]
        while pending:
            place = pending.pop()
            if (key := _place_on_disk(place)) in seen:
                left_out[REPEATED].append(place)
                continue
            seen.add(key)
            for entry in _entries(place):
                path = Path(entry.path)
                if is_hidden(entry.name):
                    if hidden := list(_all_files(path)):  # a folder may be empty
                        left_out[HIDDEN] += hidden
                elif entry.is_symlink() and not exists(path):
                    left_out[BROKEN].append(path)
                elif entry.is_file():
                    files.append(path)
                elif not entry.is_dir():
                    left_out[SPECIAL].append(path)
                else:
                    (links if entry.is_symlink() else pending).append(path)
    return Listing(sorted(files), dict(left_out))


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        raise MissingInput(f"{place} cannot be listed: {error.strerror}") from error


def _place_on_disk(folder: Path) -> tuple[int, int]:
    try:
        stat = folder.stat()
    except OSError as error:
        raise MissingInput(f"{folder} cannot be listed: {error.strerror}") from error
    return stat.st_dev, stat.st_ino


def _all_files(path: Path) -> Iterator[Path]:
    """Yield a file, or every file below a folder without its links."""
    if path.is_dir() and not path.is_symlink():
        for top, _, names in os.walk(path):
            yield from (Path(top, name) for name in names)
    else:
        yield path
