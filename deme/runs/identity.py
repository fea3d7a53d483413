"""What makes two runs the same run: their settings and the content of their inputs (docs/runs.md).

An option counts by its name, the class or function that it stands for, and by its values, not by
the module that the class lies in: moving code keeps the identity of every run. A class outside of
this package counts by its import path. Keys that change no result are declared in the settings
(`ChangesNoResult`).
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import get_args, get_type_hints

from deme.runs.inputs import content_hash
from deme.runs.settings import SETTINGS, ChangesNoResult, Config, Option
from deme.system import files

# of options: what lies there counts, not what it is called
HASHED_PATH_KEYS = ("path", "captions", "parts")


# options' keys that were added later -> the value at which they count as absent, as they were
ADDED_KEYS = {"model": {"ema": False}}


def identity_hash(config: Config, stage: str, hashes: Mapping[str, list[str]]) -> str:
    """Return the sha256 of what determines a run's results: its config and its inputs' content."""
    neutral = neutral_keys(stage)
    kept = {
        key: _named(_without_added(key, value), neutral.get(key, ()))
        for key, value in config.items()
        if neutral.get(key) != ()
    }
    return files.sha256_text(json.dumps([kept, dict(hashes)], sort_keys=True))


def _without_added(group: str, option: object) -> object:
    added = ADDED_KEYS.get(group, {})
    if not added or not isinstance(option, Mapping):
        return option
    return {key: value for key, value in option.items() if added.get(key, ...) != value}


def data_hash(option: Option) -> str:
    """Return the sha256 of a `data` option: its settings, and the content that its paths locate."""
    named = _named(option, neutral_keys("train")["data"])
    return files.sha256_text(json.dumps(named, sort_keys=True))


@cache
def neutral_keys(stage: str) -> Mapping[str, tuple[str, ...]]:
    """Return the keys of a command that change no result.

    A key has () if all of it changes nothing, else those keys of its group that do not.
    """
    hints = get_type_hints(SETTINGS[stage], include_extras=True)
    return {
        name: mark.keys
        for name, hint in hints.items()
        for mark in get_args(hint)
        if isinstance(mark, ChangesNoResult)
    }


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
