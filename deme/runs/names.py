"""The names of run directories: <label>-<settings and inputs>-<seeds>-<id>.

Only the id identifies a run. The part before it is for readers: it is computed from the run's
configuration, and may differ between versions.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deme.runs.composed import Flat, flat
from deme.runs.inputs import frozen_config
from deme.runs.labels import (
    DEFAULT_LABELS,
    LABEL,
    changed_settings,
    given_inputs,
    inputs_text,
    is_labelled_by_user,
)
from deme.runs.settings import CELL_LETTERS
from deme.system import DemeError, exists, is_file_name

MAX_LENGTH = 60  # characters before the id, if labels and seeds alone are not longer
ID_LENGTH = 10


def readable_name(values: Flat) -> str:
    """Return the readable part of a run's name: label, settings and inputs, expert and seeds.

    `values`: the configuration by dotted keys. If the name is too long, the least specific parts
    are left out first.
    """
    head, seeds = _head(values), _seeds(values)
    of = "-".join(part for part in inputs_text(values).split("-") if part not in seeds)
    inputs = [of] if _adds_to(head, of) else []
    parts = [part for part in changed_settings(values) if _adds_to(head, part)]

    def joined() -> str:
        first, then = (inputs, parts) if values["stage"] == "evaluate" else (parts, inputs)
        return "-".join([head, *first, *then, *seeds])

    while parts and len(joined()) > MAX_LENGTH:
        parts.pop()
    while inputs and len(joined()) > MAX_LENGTH:  # the last of its settings first
        shorter = inputs.pop().rpartition("-")[0]
        inputs += [shorter] if shorter else []
    return joined()


def older_name(values: Flat) -> str:
    """Return the readable part in the format of earlier versions: label, expert and seeds."""
    return "-".join([str(values.get(LABEL, values["stage"])), *_seeds(values)])


def run_folder(stage_folder: Path, values: Flat, identity: str) -> Path:
    """Return the directory of a run: an existing one with its id and labels, or a new one.

    The part before the id may differ, as earlier versions and users name directories differently.
    Runs that differ in their labels (method, base, expert, seeds) have separate directories.
    """
    end = f"-{identity[:ID_LENGTH]}"
    wanted = stage_folder / f"{readable_name(values)}{end}"
    for place in (wanted, stage_folder / f"{older_name(values)}{end}"):
        if exists(place):
            return place
    same = sorted(stage_folder.glob(f"*{end}"))
    return next((place for place in same if _labels_of(place) == _labels(values)), wanted)


def _head(values: Flat) -> str:
    """Return the label; the stage, if no label was given and the inputs describe the run."""
    stage, overrides = str(values["stage"]), values.get("overrides", [])
    label = values.get(LABEL, stage)
    is_open = stage in DEFAULT_LABELS and not is_labelled_by_user(overrides)
    if is_open and (given_inputs(overrides) or label == DEFAULT_LABELS[stage]):
        return stage
    return str(label)


def _seeds(values: Flat) -> list[str]:
    return [f"{CELL_LETTERS[key]}{value}" for key, value in _numbers(values)]


def _numbers(values: Flat) -> Iterator[tuple[str, Any]]:
    """Yield those of base, expert and seeds that the run has."""
    named = ((key, values.get(f"cell.{key}")) for key in CELL_LETTERS)
    return ((key, value) for key, value in named if value is not None)


def _labels(values: Flat) -> dict[str, str]:
    return {key: str(value) for key, value in (("method", values.get(LABEL)), *_numbers(values))}


def _labels_of(place: Path) -> dict[str, str] | None:
    try:
        return _labels(flat(frozen_config(place)))
    except DemeError:
        return None  # a run that never began, or is damaged


def _adds_to(head: str, part: str) -> bool:
    """Whether a part is a valid file name and adds information to the head of the name."""
    return is_file_name(part) and not re.search(rf"(^|[_-]){re.escape(part)}($|[_-])", head)
