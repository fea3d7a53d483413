"""Runs that never did work: what may be deleted without losing a result or a checkpoint.

Whatever is not known for sure is kept: a folder that is not named and placed as a run is, a file
that is not one of those that a run has before its work begins, a link, the run of another machine.
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
class Idle:
    """What may be deleted, and why; `age` of its last change in seconds."""

    path: Path
    why: str
    num_bytes: int
    age: float


def find_idle(place: Path) -> list[Idle]:
    """Return runs at or below a folder that never did work, and leftovers beside runs."""
    found = [_idle(path, why) for path in find_runs(place) if (why := why_idle(path))]
    found += [_idle(path, "left by a killed process") for path in _leftovers(place)]
    return found


def why_idle(path: Path) -> str | None:
    """Return why a run directory can go, None for one that stays."""
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
    """Whether a folder lies and is named as a run directory, through no link."""
    place = path.absolute()
    return (
        place.parent.name in RUNS
        and NAME.fullmatch(place.name) is not None
        and not any(each.is_symlink() for each in (place, *place.parents[: DEPTH - 1]))
    )


def _has_only(path: Path, names: set[str]) -> bool:
    """Whether a folder holds nothing but files of these names, empty folders and leftovers."""
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
    """Yield what killed processes of this machine were writing beside run directories."""
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


def _idle(path: Path, why: str) -> Idle:
    size = folder_size(path) if path.is_dir() else path.stat().st_size
    newest = max((each.stat().st_mtime for each in path.glob("*")), default=path.stat().st_mtime)
    return Idle(path, why, size, max(0.0, time.time() - newest))


def delete(idle: Idle) -> bool:
    """Delete it unless a process has taken it meanwhile; return whether it is gone."""
    if files.TEMPORARY.fullmatch(idle.path.name):
        files.remove_leftovers(idle.path.parent)
        return not idle.path.exists()
    with locked(idle.path / ".lock", None) as held:
        if not held or _why_while_held(idle.path) is None:
            return False
        shutil.rmtree(idle.path)
    with contextlib.suppress(OSError):  # the folder of a stage that has no other runs
        idle.path.parent.rmdir()
    return True


def _why_while_held(path: Path) -> str | None:
    """Return why a run whose lock is held by this process can still go."""
    state = read_status(path).get("state") if exists(path / "status.json") else None
    return None if state == "done" or not _has_only(path, MAY_CLEAN) else "idle"
