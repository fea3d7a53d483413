"""What makes two runs the same run: their settings and the content of their inputs (docs/runs.md).

An option counts by its name, the class or function that it stands for, and by its values, not by
the module that the class lies in: moving code keeps the identity of every run. A class outside of
this package counts by its import path. Keys that change no result are declared in the settings
(`ChangesNoResult`), as are keys that are younger than runs and count at other values only than
what was done without them (`LeftOutAt`).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from typing import TypeVar, get_args, get_type_hints

from deme.runs.inputs import content_hash
from deme.runs.settings import (
    HASHED_PATH_KEYS,
    SETTINGS,
    ChangesNoResult,
    Config,
    LeftOutAt,
    Option,
)
from deme.system import files

Mark = TypeVar("Mark", ChangesNoResult, LeftOutAt)


def identity_hash(config: Config, stage: str, hashes: Mapping[str, list[str]]) -> str:
    """Return the sha256 of what determines a run's results: its config and its inputs' content."""
    neutral, younger = neutral_keys(stage), _marks(stage, LeftOutAt)
    kept = {
        key: _named(_without(value, younger.get(key, ())), neutral.get(key, ()))
        for key, value in config.items()
        if neutral.get(key) != () and not _is_left_out(value, younger.get(key, ()))
    }
    return files.sha256_text(json.dumps([kept, dict(hashes)], sort_keys=True))


def data_hash(option: Option) -> str:
    """Return the sha256 of a `data` option: its settings, and the content that its paths locate."""
    counted = _without(option, _marks("train", LeftOutAt)["data"])
    named = _named(counted, neutral_keys("train")["data"])
    return files.sha256_text(json.dumps(named, sort_keys=True))


@cache
def neutral_keys(stage: str) -> Mapping[str, tuple[str, ...]]:
    """Return the keys of a command that change no result.

    A key has () if all of it changes nothing, else those keys of its group that do not.
    """
    marks = _marks(stage, ChangesNoResult)
    return {name: found[0].keys for name, found in marks.items()}


def changes_no_result(stage: str, key: str) -> bool:
    """Whether a command's dotted key is one of those that change no result."""
    group, _, rest = key.partition(".")
    inside = neutral_keys(stage).get(group)
    return inside is not None and (inside == () or rest in inside)


@cache
def _marks(stage: str, kind: type[Mark]) -> Mapping[str, tuple[Mark, ...]]:
    """Return the marks of one kind by the key of the command that they are on."""
    hints = get_type_hints(SETTINGS[stage], include_extras=True)
    found = {
        name: tuple(mark for mark in get_args(hint) if isinstance(mark, kind))
        for name, hint in hints.items()
    }
    return {name: marks for name, marks in found.items() if marks}


def _is_left_out(value: object, marks: Sequence[LeftOutAt]) -> bool:
    """Whether a key is left out at the value that it has."""
    return any(_named(value) == _named(each) for mark in marks for each in mark.at)


def _without(group: object, marks: Sequence[LeftOutAt]) -> object:
    """Return a group without the keys that are left out at the values that they have."""
    return reduce(lambda rest, mark: mark.without(rest), marks, group)


def _named(node: object, neutral: tuple[str, ...] = ()) -> object:
    """Replace a _target_ by an option's name, paths of HASHED_PATH_KEYS by content hashes."""
    if isinstance(node, list):
        return [_named(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    found = {}
    for key, value in node.items():
        if key == "_target_":
            package, _, name = str(value).rpartition(".")
            found["name"] = name if package.startswith("deme.") else value
        elif key not in neutral:
            hashed = key in HASHED_PATH_KEYS and isinstance(value, str)
            found[key] = content_hash(value) if hashed else _named(value)
    return found
