"""Runs that can be deleted without losing a result or a checkpoint.

Whatever is uncertain is kept: a folder that is not named and placed like a run, a run with a file
that is not written before its work begins, a link, a run of another machine.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deme.runs.listing import (
    DEPTH,
    NAME,
    find_runs,
    folder_size,
    looks_like_run,
    runs_elsewhere,
)
from deme.runs.run import frozen_identity
from deme.runs.run_files import MAY_CLEAN, read_status
from deme.runs.settings import RUNS
from deme.system import DemeError, exists, files, first_line, is_locked, locked


@dataclass(frozen=True)
class Removable:
    """A run or temporary file that can be deleted; `age`: seconds since its last change."""

    path: Path
    why: str
    num_bytes: int
    age: float


def find_removable(place: Path) -> list[Removable]:
    """Return removable runs at or below a folder, and temporary files next to runs."""
    found = [_removable(path, why) for path in find_runs(place) if (why := why_removable(path))]
    found += [_removable(path, "left by a killed process") for path in _leftovers(place)]
    return found


def why_removable(path: Path) -> str | None:
    """Return why a run directory can be deleted, None if it must be kept."""
    if not _is_own(path) or is_locked(path / ".lock") or runs_elsewhere(path):
        return None
    if not _has_only(path, MAY_CLEAN):
        return None
    if not exists(path / "status.json"):
        return "never began" if any(path.iterdir()) else "empty"
    try:
        status = read_status(path)
        state = status.get("state")
        if state == "done" or not frozen_identity(path / "config.yaml")[0]:
            return None
    except DemeError:
        return None
    what = "failed" if state == "failed" else "was stopped"
    reason = first_line(ValueError(status.get("error", "")))
    said = f": {reason:.60}" if what == "failed" and status.get("error") else ""
    return f"{what} before any result or checkpoint{said}"


def _is_own(path: Path) -> bool:
    """Whether a folder has the name and place of a run directory, without symbolic links."""
    place = path.absolute()
    return (
        place.parent.name in RUNS
        and NAME.fullmatch(place.name) is not None
        and not any(each.is_symlink() for each in (place, *place.parents[: DEPTH - 1]))
    )


def _has_only(path: Path, names: set[str]) -> bool:
    """Whether a folder contains only files of these names, empty folders and temporary files."""
    with contextlib.suppress(OSError):
        for folder, _, inside in os.walk(path):
            for name in inside:
                is_leftover = files.TEMPORARY.fullmatch(name) is not None
                is_known = Path(folder) == path and name in names
                if not (is_leftover or is_known or _in_leftover(Path(folder), path)):
                    return False
        return True
    return False


def _in_leftover(folder: Path, path: Path) -> bool:
    return any(files.TEMPORARY.fullmatch(part) for part in folder.relative_to(path).parts)


def _leftovers(place: Path) -> Iterator[Path]:
    """Yield the temporary files of killed processes of this machine next to run directories."""
    if looks_like_run(place):
        return
    level = [place]
    for _ in range(DEPTH):
        for folder in level:
            yield from files.leftovers(folder)
        level = [
            inside
            for folder in level
            for inside in sorted(folder.glob("[!.]*"))
            if inside.is_dir() and not inside.is_symlink() and not looks_like_run(inside)
        ]


def _removable(path: Path, why: str) -> Removable:
    size = folder_size(path) if path.is_dir() else path.stat().st_size
    newest = max((each.stat().st_mtime for each in path.glob("*")), default=path.stat().st_mtime)
    return Removable(path, why, size, max(0.0, time.time() - newest))


def delete(removable: Removable) -> bool:
    """Delete it unless a process has started to work on it; return whether it was deleted."""
    if files.TEMPORARY.fullmatch(removable.path.name):
        files.remove_leftovers(removable.path.parent)
        return not removable.path.exists()
    with locked(removable.path / ".lock", None) as held:
        # its lock is held by this process, which why_removable would take for a working one
        if not held or read_status(removable.path).get("state") == "done":
            return False
        if not _has_only(removable.path, MAY_CLEAN):
            return False
        shutil.rmtree(removable.path)
    with contextlib.suppress(OSError):  # the folder of a stage that has no other runs
        removable.path.parent.rmdir()
    return True
