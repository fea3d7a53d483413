"""Values that completion offers: runs, folders, files, and the allowed values of a key."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deme.system import DemeError

MODELS = ("train", "merge", "average")  # stages whose runs hold weights
MEASURED = ("evaluate",)
ANY: tuple[str, ...] = ()  # stage
RUN_KEYS = {  # keys that name runs, and the stages of these
    "inputs.weights": MODELS,
    "inputs.experts": MODELS,
    "inputs.teacher": MODELS,
    "inputs.average": MODELS,
    "inputs.models": MODELS,
    "inputs.run": MODELS,
    "inputs.snapshots_of": ("train",),
    "inputs.search": ("search",),
    "model": MODELS,
    "run": MODELS,
}
RUN_OF = {"verify": MEASURED, "analyze": ANY}  # stages that run= names, if not a model
FOLDER_KEYS = {
    "data", "model.path", "data.path", "inputs.images", "runs", "results", "from", "logger.folder",
    "paths.runs", "paths.cache", "paths.data", "paths.models",
}  # fmt: skip
FILE_KEYS = {"out", "metrics.path", "data.captions"}  # files, completed folder by folder
# the allowed values at the start of a comment
WORDS = re.compile(r"((?:\w[\w-]*, )*\w[\w-]*) or (\w[\w-]*)(?:$|[;:])")


def stage_values(command: str, key: str, typed: str, root: str) -> Iterator[str]:
    """Yield the runs, folders and files that the value of a command's key may be.

    `typed`: the part of the value typed so far, possibly a list; `root`: the folder of all runs.
    """
    stages = RUN_OF.get(command, MODELS) if key == "run" else RUN_KEYS.get(key)
    if stages is None and key not in FOLDER_KEYS | FILE_KEYS:
        return
    from deme.runs.listing import looks_like_run

    before, start = _last_of_list(typed)
    found = [] if stages is None else list(runs(start, root, stages))
    if stages in (None, MODELS) or not found:  # a model may be anywhere
        folders = places(start, files=key in FILE_KEYS)
        found += [each for each in folders if stages is None or not looks_like_run(Path(each))]
    yield from (f"{before}{place}" for place in found)


def _last_of_list(typed: str) -> tuple[str, str]:
    """Split a partly typed list: [a,b is split into [a, and b."""
    start = max(typed.rfind("["), typed.rfind(",")) + 1
    return typed[:start], typed[start:]


def runs(
    typed: str, root: str, stages: Sequence[str] = ANY, only_done: bool = True
) -> Iterator[str]:
    """Yield the runs below `root` of the given stages whose paths begin with `typed`."""
    from deme.runs import read_status
    from deme.runs.listing import find_runs

    folder = Path(root).expanduser()
    for path in sorted(find_runs(folder)) if folder.is_dir() else ():
        text = os.path.join(root, path.relative_to(folder))  # noqa: PTH118 (as it is typed)
        if not text.startswith(typed) or (stages and path.parent.name not in stages):
            continue
        try:
            if only_done and read_status(path).get("state") != "done":
                continue
        except DemeError:  # its files cannot be read
            continue
        yield text


def places(typed: str, files: bool = False, suffix: str = "") -> Iterator[str]:
    """Yield the folders whose paths begin with `typed`, each with a slash at the end.

    `files`: also yield files whose names end in `suffix`. Names that are not plain text are left
    out.
    """
    above, slash, start = typed.rpartition("/")
    place = Path(f"{above}{slash}").expanduser()
    try:
        inside = sorted(place.iterdir())
    except OSError:
        return
    for entry in inside:
        name = entry.name
        hidden = name.startswith(".") and not start.startswith(".")
        if hidden or not name.startswith(start) or not name.isprintable():
            continue
        if entry.is_dir():
            yield f"{above}{slash}{name}/"
        elif files and name.endswith(suffix):
            yield f"{above}{slash}{name}"


def suites(typed: str, shipped: Path, root: str) -> Iterator[str]:
    """Yield shipped suites, suite files and folders, and suites that have runs."""
    known = {f"experiments/{file.parent.name}" for file in shipped.glob("*/suite.yaml")}
    yield from known
    found = places(typed, files=True, suffix=".yaml")
    yield from (place for place in found if place.rstrip("/") not in known)
    yield from (place.rstrip("/").removeprefix(f"{root}/") for place in places(f"{root}/{typed}"))


def allowed_values(command: str, key: str, comment: str) -> list[str]:
    """Return the values that the type of a key allows, else those that its comment lists first."""
    if found := WORDS.match(comment):
        return [*found[1].split(", "), found[2]]
    if "." in key and key.split(".")[0] not in ("compute", "projection", "metrics", "passport"):
        return []
    from deme.cli.types_in_words import type_at
    from deme.runs.settings import SETTINGS

    return re.findall(r"`([^`]+)`", type_at(SETTINGS[command], key)[0])
