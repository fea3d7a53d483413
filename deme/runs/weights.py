"""The weights of finished runs: which folder is meant, and the snapshots of a training run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deme.runs.formats import Best
from deme.runs.inputs import check_finished, check_format, weights_name
from deme.runs.run_files import is_run, read_best
from deme.system import (
    EMA_WEIGHTS,
    RAW_WEIGHTS,
    SNAPSHOTS,
    BadConfig,
    WorkFailed,
    exists,
    files,
    logger,
    model_folders,
)
from deme.system.values import MAKE_AGAIN

PROFILE = "power_"  # with a length: the folder of a power-function average in a snapshot


@dataclass(frozen=True)
class Snapshot:
    """The model of one step of a training run, and averages of all steps up to it, by length."""

    step: int
    folder: Path
    profiles: Mapping[float, Path]


def weights_folder(path: Path, weights: str = EMA_WEIGHTS) -> Path:
    """Return the model folder of a finished run, or `path` itself if it is a model folder.

    `weights`: ema (raw where the run has no average) or raw. Raises MissingInput for a run that is
    not finished, BadConfig for one without these weights or of the older format.
    """
    if not is_run(path):
        return path
    check_format(path)
    check_finished(path)
    names = [folder.name for folder in model_folders(path)]
    return path / "weights" / weights_name(path, names, weights)


def stored_hash(run: Path, weights: str) -> str:
    """Return the hash of what a finished run holds now of its weights: ema, raw or snapshots."""
    if weights == SNAPSHOTS:
        find_snapshots(run)
        return files.sha256(run / "weights" / SNAPSHOTS)
    return files.sha256(weights_folder(run, weights))


def find_snapshots(run: Path) -> list[Snapshot]:
    """Return the snapshots of a finished training run, by step. Raises BadConfig for none."""
    if not is_run(run):
        raise BadConfig(
            f"{run} is not a run directory, and only a run has snapshots\n"
            "type: the directory of a deme train run with snapshots.every=<n>"
        )
    check_format(run)
    check_finished(run)
    inside = sorted((run / "weights" / SNAPSHOTS).glob("[0-9]*"))
    weights_name(run, [SNAPSHOTS] if inside else [], SNAPSHOTS)
    return [_snapshot(folder) for folder in inside]


def _snapshot(folder: Path) -> Snapshot:
    places = sorted(folder.glob(f"{PROFILE}*"))
    try:
        profiles = {float(place.name.removeprefix(PROFILE)): place for place in places}
        return Snapshot(int(folder.name), folder, profiles)
    except ValueError as error:
        raise WorkFailed(f"{folder} is damaged: {error}\n{MAKE_AGAIN}") from error


def snapshot_folder(run: Path, step: int) -> Path:
    """Return where the snapshot of a step is written."""
    return run / "weights" / SNAPSHOTS / f"{step:08}"


def found_weights(search: Path) -> Best:
    """Return what a finished run of `deme search` found. Raises BadConfig for anything else.

    It has `weights` and `weights_by_name`, and the `merge` and the `models` that they are of.
    """
    if not exists(search / "best.json"):
        raise BadConfig(
            f"{search} is not a run of deme search; inputs.search needs the directory of such a run"
        )
    found = read_best(search)
    return {"weights_by_name": {}, **found, "weights": [float(w) for w in found["weights"]]}


def log_weights(name: str, runs: Sequence[Path], weights: str = EMA_WEIGHTS) -> None:
    """Say which weights of an input's training runs are taken."""
    taken: dict[str, list[str]] = {}
    for run in runs:
        if is_run(run) and (run / "weights").is_dir() and weights != SNAPSHOTS:
            taken.setdefault(weights_folder(run, weights).name, []).append(run.name)
    texts = {EMA_WEIGHTS: "averaged weights (EMA)", RAW_WEIGHTS: "raw weights"}
    for kind, names in taken.items():
        if kind in texts:
            because = ", as there is no average" if kind != weights else ""
            logger.info("%s: the %s of %s%s", name, texts[kind], ", ".join(names), because)
