"""The inputs of a run, recursively up to the base, and the command that repeats a run."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deme.runs.composed import Flat, defaults, flat
from deme.runs.config import compose_stage, expand_path_shortcut
from deme.runs.config_errors import groups
from deme.runs.formats import Command
from deme.runs.identity import changes_no_result
from deme.runs.inputs import frozen_config
from deme.runs.labels import OVERRIDE, given_inputs
from deme.runs.listing import ListedRun, read_run
from deme.runs.overrides import as_value
from deme.runs.run_files import command_of
from deme.runs.settings import RUNS, Config
from deme.system import DemeError, exists

MAX_DEPTH = 12  # levels of runs that are made from runs


@dataclass(frozen=True)
class Source:
    """An input of a run, `depth` levels up, with the key that names it."""

    depth: int
    key: str
    name: str  # as it was given
    place: Path | None  # where it is, None for what is gone or no path
    run: ListedRun | None = None


def lineage(run: ListedRun) -> Iterator[Source]:
    """Yield the inputs of a run, each followed by its own inputs, each run once."""
    yield from _lineage(run, 0, {run.path})


def _lineage(run: ListedRun, depth: int, seen: set[Path]) -> Iterator[Source]:
    for key, name in _named(run, depth):
        place = Path(name)
        inside = _run_of(place)
        source = read_run(inside) if inside is not None else None
        yield Source(depth, key, name, place if exists(place) else None, source)
        if source is not None and source.path not in seen and depth < MAX_DEPTH:
            seen.add(source.path)
            yield from _lineage(source, depth + 1, seen)


def _named(run: ListedRun, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the inputs of a run, and the paths of its model and its data.

    A run made from other runs has their model; it is yielded only for the first run.
    """
    for name, places in run.inputs.items():
        yield from ((f"inputs.{name}", str(place)) for place in places)
    for key in ("model.path", "data.path"):
        value = run.settings.get(key)
        if isinstance(value, str) and not (key == "model.path" and run.inputs and depth):
            yield key, value


def _run_of(place: Path) -> Path | None:
    """Return the run directory that a path is or lies in, None if there is none."""
    return next((each for each in (place, *place.parents) if exists(each / "status.json")), None)


def given_overrides(run: ListedRun) -> list[str] | None:
    """Return the overrides a run was made with, None for versions that did not record them."""
    kept = run.settings.get("overrides")
    if isinstance(kept, list):
        return [str(word) for word in kept]
    typed = _typed(run.path).get("command", [])
    return typed[1:] if typed[:1] == [run.stage] else None


def command_again(run: ListedRun) -> tuple[str, str]:
    """Return the command that repeats a run, and the folder in which to type it.

    It is a command for this run alone if composing that gives the settings of the run; otherwise it
    is the command that was typed: of a suite, or of `deme improve`. It is empty if neither is
    known.
    """
    record = _typed(run.path)
    folder = record.get("directory", "")
    overrides = given_overrides(run)
    if overrides is not None and run.stage in RUNS:
        overrides = [*overrides, *_filled_in(run, overrides)]
        with contextlib.suppress(DemeError):
            composed = compose_stage(run.stage, overrides)
            if counted(composed, run.stage) == counted(frozen_config(run.path), run.stage):
                return shlex.join(["deme", run.stage, *overrides]), folder
    typed = record.get("command", [])
    return shlex.join(["deme", *typed]) if typed else "", folder


def _filled_in(run: ListedRun, overrides: Sequence[str]) -> Iterator[str]:
    """Yield overrides for the inputs that a suite filled in."""
    given = given_inputs(overrides)
    for key, value in run.settings.items():
        name = key.removeprefix("inputs.")
        if name != key and name not in given and isinstance(value, list) and value:
            yield f"{key}={as_value(value)}"


def counted(config: Config, stage: str) -> Flat:
    """Return the values of a configuration that can change a result, by their dotted keys."""
    values = flat(config)
    return {key: value for key, value in values.items() if not changes_no_result(stage, key)}


def changed(run: ListedRun) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the defaults: key -> (value, default).

    The defaults are those of the run's experiment and options; {} if conf/ does not contain these.
    """
    choices = tuple(
        word
        for word in given_overrides(run) or []
        if (match := OVERRIDE.fullmatch(word)) and match["key"] in groups()
    )
    expanded = tuple(part for word in choices for part in expand_path_shortcut(word))
    try:
        known = defaults(run.stage, tuple(word for word in expanded if ".path=" not in word))
    except DemeError:
        return {}
    found = {}
    for key, value in run.settings.items():
        is_class = key.partition(".")[2] == "_target_"
        if key == "stage" or is_class or changes_no_result(run.stage, key):
            continue
        default = known.get(key)
        refers = isinstance(default, str) and "${" in default
        if not refers and (key not in known or default != value):
            found[key] = (value, default)
    return found


def _typed(path: Path) -> Command:
    with contextlib.suppress(DemeError):
        return command_of(path)
    return Command()
