"""The runs below a folder: what they are, their states and their numbers. No torch here.

Nothing is written there, and a run that cannot be read is listed as damaged.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from deme.runs.composed import Flat, flat
from deme.runs.formats import Status
from deme.runs.inputs import cached, frozen_config, is_older_format
from deme.runs.numbers import Measured, last_step, main_numbers
from deme.runs.run_files import damaged, places_of_input, provenance_of, read_status
from deme.runs.settings import RUNS
from deme.system import DemeError, exists, files, is_locked, read_cached

NAME = re.compile(r".+-[0-9a-f]{10}")  # a run directory, with its id
DEPTH = 3  # levels below the folder of all runs: suite, stage, run
OWNER = re.compile(r"process \d+ on (.+)")
STATES = ("done", "running", "stopped", "failed", "damaged", "empty")


class _Known(TypedDict):
    """A cached configuration, and the size and time of its file."""

    stamp: list[int]
    settings: Flat


@dataclass(frozen=True)
class ListedRun:
    """A run directory and its contents; `settings` is empty for a run that never began."""

    path: Path
    settings: Flat = field(repr=False)
    status: Status = field(repr=False)
    state: str

    @property
    def stage(self) -> str:
        """The command that made it."""
        return str(self.settings.get("stage", self.path.parent.name))

    @property
    def labels(self) -> dict[str, Any]:
        """The labels of the run: method, seeds, ..."""
        return {
            key.removeprefix("cell."): value
            for key, value in self.settings.items()
            if key.startswith("cell.")
        }

    @property
    def suite(self) -> str:
        """The suite: the folder that contains the stage's folder."""
        return self.path.parent.parent.name

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.name

    @property
    def time(self) -> float | None:
        """When its state was last written, in seconds since 1970; None if it never began."""
        return self.status.get("time")

    @cached_property
    def numbers(self) -> dict[str, Measured]:
        """The main numbers by name: metrics, the score of a search, the loss of a training."""
        with contextlib.suppress(DemeError):
            return main_numbers(self.path, self.stage)
        return {}

    @cached_property
    def step(self) -> int | None:
        """The number of steps that an unfinished training has logged."""
        if self.state == "done" or self.stage != "train":
            return None
        return last_step(self.path)

    @cached_property
    def num_bytes(self) -> int:
        """The size of its files on disk; a file that several runs share counts in each of them."""
        return folder_size(self.path)

    @cached_property
    def inputs(self) -> dict[str, list[Path]]:
        """The paths of the inputs when the run was made."""
        made = provenance_of(self.path)
        if made is None:
            return {}
        home = made.get("directory", ".")
        return {
            name: [_found(place, home, self.path) for place in places]
            for name, places in made["inputs"].items()
            if places
        }


def list_runs(place: Path) -> list[ListedRun]:
    """Return the runs at or below a folder, by suite, stage and name."""
    order = {stage: number for number, stage in enumerate(RUNS)}
    found = sorted(
        find_runs(place),
        key=lambda path: (path.parts[:-2], order.get(path.parent.name, len(order)), path.name),
    )
    settings = _settings_of(place, found)
    return [_listed(path, settings.get(path)) for path in found]


def read_run(path: Path) -> ListedRun:
    """Return the contents of a run directory."""
    settings = None
    with contextlib.suppress(DemeError):
        settings = flat(frozen_config(path))
    return _listed(path, settings)


def _listed(path: Path, settings: Flat | None) -> ListedRun:
    try:
        status = read_status(path)
        return ListedRun(path, settings or {}, status, state_of(path, status))
    except DemeError:
        return ListedRun(path, settings or {}, cast(Status, {}), "damaged")


def state_of(path: Path, status: Status) -> str:
    """Return done, running, stopped (or killed), failed, damaged, or empty (never began)."""
    state = str(status.get("state", "empty"))
    if state == "done":
        return "damaged" if damaged(path, status) else state
    if state == "running":
        return state if is_locked(path / ".lock") or runs_elsewhere(path) else "stopped"
    return "stopped" if state == "preempted" else state


def runs_elsewhere(path: Path) -> bool:
    """Whether the run was last used on another machine, whose locks may be invisible here."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = OWNER.match((path / ".lock").read_text())
        return found is not None and found[1].strip() != os.uname().nodename
    return False


def find_runs(place: Path) -> Iterator[Path]:
    """Yield the run directories at or below a folder, at most as deep as runs/suite/stage/run."""
    if looks_like_run(place):
        yield place
        return
    level = [place]
    for _ in range(DEPTH):
        inside = [folder for each in level for folder in _folders(each)]
        runs = {folder for folder in inside if looks_like_run(folder)}
        yield from runs
        level = [folder for folder in inside if folder not in runs]


def looks_like_run(path: Path) -> bool:
    """Whether a folder is a run directory: its parent is a stage's folder and its name a run's.

    A folder with another name is one if it has the contents of a run.
    """
    if path.absolute().parent.name in RUNS and NAME.fullmatch(path.name):
        return True
    return exists(path / "status.json") and exists(path / "config.yaml")


def _folders(place: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        return [Path(entry) for entry in entries if entry.name[0] != "." and entry.is_dir()]
    return []


def folder_size(path: Path) -> int:
    """Return the bytes of all files in a folder, including hidden ones."""
    total, todo = 0, [str(path)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _found(name: str, home: str, run: Path) -> Path:
    """Return the current place of a run's input; the recorded place if it no longer exists."""
    return next((each for each in places_of_input(name, home, run) if exists(each)), Path(name))


def _settings_of(place: Path, runs: Sequence[Path]) -> dict[Path, Flat]:
    """Return the settings of runs; cached in the user's cache, because reading YAML is slow."""
    kept = cached("listings", str(place.resolve()))
    known = read_cached(kept, dict[str, _Known]) or {}
    found: dict[str, _Known] = {}
    for path in runs:
        with contextlib.suppress(OSError, DemeError):
            stat = (path / "config.yaml").stat()
            stamp, name = [stat.st_size, stat.st_mtime_ns], str(path)
            entry = known.get(name)
            if entry is None or entry["stamp"] != stamp:
                settings = {} if is_older_format(path) else flat(frozen_config(path))
                entry = {"stamp": stamp, "settings": settings}
            found[name] = entry
    if found != known:
        with contextlib.suppress(OSError, DemeError, TypeError):
            files.write_json(kept, found)
    return {Path(name): entry["settings"] for name, entry in found.items()}
