"""The names of run directories: <what it is>-<what was set>-<its seeds>-<its id>.

The id alone identifies a run; what comes before it is for readers, follows from the run's own
configuration, and may be another in other versions. A run is found by its id.
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
    given_inputs,
    is_labelled_by_user,
    what_was_set,
    what_went_in,
)
from deme.runs.settings import CELL_LETTERS
from deme.system import DemeError, exists, is_file_name

MAX_LENGTH = 60  # characters before the id, if labels and seeds alone are not longer
ID_LENGTH = 10


def readable_name(values: Flat) -> str:
    """Return the readable part of a run's name: label, settings and inputs, expert and seeds.

    `values` are those of its configuration. What is least special is left out first, where there is
    too much.
    """
    head, seeds = _head(values), _seeds(values)
    of = "-".join(part for part in what_went_in(values).split("-") if part not in seeds)
    inputs = [of] if _adds_to(head, of) else []
    parts = [part for part in what_was_set(values) if _adds_to(head, part)]

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
    """Return the readable part as earlier versions had it: label, expert and seeds."""
    return "-".join([str(values.get(LABEL, values["stage"])), *_seeds(values)])


def run_folder(stage_folder: Path, values: Flat, identity: str) -> Path:
    """Return the directory of a run: one with its id and its labels that is there, or a new one.

    An earlier version, or the user, may have given it another name before the id. Runs that differ
    in their labels (method, base, expert, seeds) have directories of their own.
    """
    end = f"-{identity[:ID_LENGTH]}"
    wanted = stage_folder / f"{readable_name(values)}{end}"
    for place in (wanted, stage_folder / f"{older_name(values)}{end}"):
        if exists(place):
            return place
    same = sorted(stage_folder.glob(f"*{end}"))
    return next((place for place in same if _labels_of(place) == _labels(values)), wanted)


def _head(values: Flat) -> str:
    """Return the label; the stage, where nobody gave a label and the inputs say what it is."""
    stage, overrides = str(values["stage"]), values.get("overrides", [])
    label = values.get(LABEL, stage)
    is_open = stage in DEFAULT_LABELS and not is_labelled_by_user(overrides)
    if is_open and (given_inputs(overrides) or label == DEFAULT_LABELS[stage]):
        return stage
    return str(label)


def _seeds(values: Flat) -> list[str]:
    return [f"{CELL_LETTERS[key]}{value}" for key, value in _numbers(values)]


def _numbers(values: Flat) -> Iterator[tuple[str, Any]]:
    """Yield base, expert and seeds, those that a cell has."""
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
    """Whether a part may be in a name, and says what the head of the name does not."""
    return is_file_name(part) and not re.search(rf"(^|[_-]){re.escape(part)}($|[_-])", head)
