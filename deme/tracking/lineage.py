"""The inputs and outputs of a run by name and digest: base -> expert -> merge -> evaluation."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deme.report.records import public_name
from deme.runs import (
    EvaluateSettings,
    FromModelSettings,
    RunSettings,
    base_hash,
    is_run,
    read_status,
)
from deme.system import ASSET, SNAPSHOTS, DemeError, exists, files, model_folders, read_about
from deme.tracking.record import Artifact, tracker_id

RESULTS = {"search": ("best.json", "merge-weights"), "evaluate": ("metrics.json", "metrics")}


def run_id(run: Path) -> str:
    """Return the id of the run in a directory <suite>/<stage>/<name>."""
    return tracker_id(run.parent.parent.name, run.parent.name, run.name)


def outputs_of(run: Path, placed: Path, stage: str) -> Iterator[Artifact]:
    """Yield the weights of a finished run, and the result of a search or an evaluation.

    `placed`: <suite>/<stage>/<name>, from which their names are made wherever the run is now.
    """
    for kind, digest in read_status(run).get("weights", {}).items():
        yield replace(_weights(run, kind, digest), name=tracker_id(run_id(placed), kind))
    result, kind = RESULTS.get(stage, ("", ""))
    if result and (run / result).is_file():
        digest, name = files.sha256(run / result), tracker_id(run_id(placed), kind)
        yield Artifact(name, kind, digest, run / result)


def inputs_of(settings: RunSettings, made: Mapping[str, Any], run: Path) -> Iterator[Artifact]:
    """Yield the inputs recorded in run.json, and the model that the run starts from."""
    folder = Path(made.get("directory", "."))
    for name, found in made.get("inputs", {}).items():
        for named, digest in found.items():
            weights = settings.weights_meant(name, len(found))
            yield _input(Path(folder, named), weights, digest)
    if isinstance(settings, FromModelSettings) and (base := _base(settings, run)) is not None:
        yield base


def _weights(run: Path, kind: str, digest: str | None) -> Artifact:
    """Return the weights of a run as an artifact; its files only if the run itself records them.

    An input named by another person's run could be any folder of this disk.
    """
    is_here = digest is not None and _recorded(run).get(kind) == digest
    place = run / "weights" / kind if is_here else None
    return Artifact(tracker_id(run_id(run), kind), "model", digest, place)


def _recorded(run: Path) -> Mapping[str, str]:
    """Return the digests of a run's weights, {} if its status cannot be read."""
    with contextlib.suppress(DemeError):
        return read_status(run).get("weights", {})
    return {}


def _input(place: Path, wanted: str, digest: str) -> Artifact:
    """Return an input: the weights of a run, its merge weights, or a model folder."""
    if place.parent.name == "weights":  # of a run, named by their folder
        return _weights(place.parent.parent, place.name, digest)
    if is_run(place):
        known = _recorded(place)
        kind = next((name for name, one in known.items() if one == digest), wanted)
        if known:
            return _weights(place, kind, digest)
        result, kind = RESULTS.get(place.parent.name, ("", "run"))
        found = place / result if result else None
        return Artifact(tracker_id(run_id(place), kind), kind, digest, found)
    if place.parent.name in ("train", "merge", "average"):  # a run that is not here any more
        return Artifact(tracker_id(run_id(place), wanted), "model", digest)
    return Artifact(_named(place), "model", digest)


def _named(place: str | Path) -> str:
    """Return the name of a model that was not made by a run on this machine."""
    return tracker_id(*re.split("[:/]", public_name(str(place))))


def _base(settings: FromModelSettings, run: Path) -> Artifact | None:
    """Return the model that a run starts from, None for a run with its own weights."""
    path = settings.model.get("path")
    measures_others = isinstance(settings, EvaluateSettings) and (
        settings.source != "weights" or bool(settings.inputs.get("weights"))
    )
    if path is None or measures_others:
        return None
    place, digest = Path(str(path)), _recorded_base(run)
    if digest is None and (str(path).startswith(ASSET) or _is_model(place)):
        with contextlib.suppress(DemeError):
            digest = base_hash(settings.model, str(path))
    if place.parent.name == "weights":
        return _weights(place.parent.parent, place.name, digest)
    if place.parent.parent.name == "weights" and place.parent.name == SNAPSHOTS:
        kind = f"{SNAPSHOTS}-{place.name}"
        return Artifact(tracker_id(run_id(place.parents[2]), kind), "model", digest)
    return Artifact(_named(str(path)), "model", digest)


def _is_model(place: Path) -> bool:
    """Whether a path, which another person may have written, is a model folder."""
    return any(exists(place / name) for name in ("model_index.json", "config.json"))


def _recorded_base(run: Path) -> str | None:
    """Return the hash of the base that is recorded with the run's weights."""
    for folder in model_folders(run):
        with contextlib.suppress(DemeError):
            if base := read_about(folder).get("base"):
                return base
    return None
