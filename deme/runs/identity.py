"""What makes two runs the same run: their settings and the content of their inputs (docs/runs.md).

An option counts by its name, the class or function that it stands for, and by its values, not by the module that the class
lies in: moving code keeps the identity of every run. A class outside of this package counts by its import path. Keys that
change no result are declared in the settings (`ChangesNoResult`).
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from deme.runs.inputs import content_hash
from deme.runs.settings.base import ChangesNoResult
from deme.runs.settings.commands import SETTINGS
from deme.system import files

HASHED_PATH_KEYS = (
    "path",
    "captions",
    "parts",
)  # of options: what lies there counts, not what it is called


def identity_hash(config: Mapping[str, Any], stage: str, hashes: Mapping[str, list[str]]) -> str:
    """Return the sha256 of what determines a run's results: its config and its inputs' content."""
    neutral = neutral_keys(stage)
    kept = {
        key: _named(value, neutral.get(key, ()))
        for key, value in config.items()
        if neutral.get(key) != ()
    }
    return files.sha256_text(json.dumps([kept, dict(hashes)], sort_keys=True))


def data_hash(option: Mapping[str, Any]) -> str:
    """Return the sha256 of a `data` option: its settings, and the content that its paths locate."""
    return files.sha256_text(
        json.dumps(_named(option, neutral_keys("train")["data"]), sort_keys=True)
    )


@cache
def neutral_keys(stage: str) -> Mapping[str, tuple[str, ...]]:
    """Return the keys of a command that change no result: key -> () for the whole key, or the keys of the group."""
    found: dict[str, tuple[str, ...]] = {}
    for name, hint in get_type_hints(SETTINGS[stage], include_extras=True).items():
        for mark in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if isinstance(mark, ChangesNoResult):
                found[name] = mark.keys
    return found


def _named(node: Any, neutral: tuple[str, ...] = ()) -> Any:
    """Replace _target_ by the name of an option, and every value under HASHED_PATH_KEYS by a hash of what it locates."""
    if isinstance(node, list):
        return [_named(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    found = {}
    for key, value in node.items():
        if key == "_target_":
            package, _, name = str(value).rpartition(".")
            found["name"] = name if package.startswith("deme.") else str(value)
        elif key not in neutral:
            hashed = key in HASHED_PATH_KEYS and isinstance(value, str)
            found[key] = content_hash(value) if hashed else _named(value)
    return found
