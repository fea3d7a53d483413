"""Which files below `paths.data` and `paths.models` a run reads, and whether they exist.

Files that are hashed for a run's identity are looked for when it is computed. Official files of
known data sets have known content, are not hashed, and are looked for here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deme.runs.settings.base import Config
from deme.runs.settings.sources import ROOTS
from deme.system import MissingInput, exists
from deme.system.official_files import Official, official_files

# keys whose content counts for the identity of a run, not their path
HASHED_PATH_KEYS = ("path", "captions", "parts")
PLACE_KEYS = (*HASHED_PATH_KEYS, "root")  # keys whose values name files
NO_FILES = ("paths", "inputs", "cell")  # keys of a configuration that name no files to bring


@dataclass(frozen=True)
class NeededFile:
    """A file or folder that a run reads.

    `places`: its path relative to the keys of `paths`, as data/... or models/...; two if one of
    these folders is inside the other.
    """

    places: tuple[str, ...]
    path: Path
    is_there: bool


def needed_files(config: Config, model_is_made: bool = False) -> list[NeededFile]:
    """Return the files that a run reads below `paths.data` and `paths.models`, each once.

    `model_is_made`: whether another run makes the model that this one starts from.
    """
    data = config.get("data")
    official = official_files(data) if data else None
    others = {key: value for key, value in config.items() if key not in NO_FILES}
    if model_is_made:
        others["model"] = {key: value for key, value in others["model"].items() if key != "path"}
    if official is not None:
        others["data"] = {key: value for key, value in others["data"].items() if key != "root"}
    roots = {name: _path(config["paths"][name]) for name in ROOTS}
    paths = [_path(text) for text in _texts(others)]
    found = [NeededFile(_places(path, roots), path, exists(path)) for path in paths]
    for each in official or ():
        found.append(NeededFile(_places(each.path, roots), each.path, each.missing is None))
    return [each for each in dict.fromkeys(found) if each.places]


def missing_official(config: Config) -> MissingInput | None:
    """Return an error if an official file of a run's data set is missing.

    None for a data set that the run may download.
    """
    data = config.get("data")
    files: list[Official] = (official_files(data) or []) if data else []
    if data and data.get("download") is True:
        return None
    return next((each.missing for each in files if each.missing is not None), None)


def _path(text: str) -> Path:
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def _places(path: Path, roots: dict[str, Path]) -> tuple[str, ...]:
    """Return a path relative to each root that contains it, the innermost root first."""
    inner_first = sorted(roots.items(), key=lambda pair: -len(pair[1].parts))
    return tuple(
        Path(name, path.relative_to(root)).as_posix()
        for name, root in inner_first
        if path.is_relative_to(root)
    )


def _texts(node: object, is_place: bool = False) -> Iterator[str]:
    """Yield the paths in a configuration, found by their keys."""
    if isinstance(node, str) and is_place:
        yield node
    elif isinstance(node, dict):
        for key, each in node.items():
            yield from _texts(each, is_place or key in PLACE_KEYS)
    elif isinstance(node, list):
        for each in node:
            yield from _texts(each, is_place)
