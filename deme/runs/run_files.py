"""The files of a run directory: their meaning, which are outputs, and how to read them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deme.runs.formats import Best, Command, Cost, Metric, Metrics, Outcome, Provenance, Status
from deme.system import DemeError, exists, read_json


@dataclass(frozen=True)
class RunFile:
    """A file or folder of a run directory, with its description.

    `is_output`: whether a finished run without it is damaged; other files may be deleted or change.
    `may_clean`: whether `deme clean` deletes a run that has only such files, which exist before the
    first result or checkpoint. Without a checkpoint a training curve starts again.
    """

    about: str
    is_output: bool = True
    may_clean: bool = False


RUN_FILES = {
    "config.yaml": RunFile("settings", is_output=False, may_clean=True),
    "run.json": RunFile("versions, inputs", is_output=False, may_clean=True),
    "status.json": RunFile("state, sizes of outputs", is_output=False, may_clean=True),
    ".lock": RunFile("which process works on it", is_output=False, may_clean=True),
    "log.txt": RunFile("messages", is_output=False, may_clean=True),
    "metrics.jsonl": RunFile("training curve", may_clean=True),
    "speed.jsonl": RunFile("images per second", is_output=False, may_clean=True),
    "passport.json": RunFile("what the model's weights fit", may_clean=True),
    "weighting.json": RunFile("loss weights", may_clean=True),
    "metrics.json": RunFile("values with intervals"),
    "cost.json": RunFile("forward passes"),
    "replicates.json": RunFile("bootstrap resamples"),
    "best.json": RunFile("what a search found"),
    "evaluations.jsonl": RunFile("scores of a search"),
    "outcome.json": RunFile("what deme improve found"),
    "checkpoints": RunFile("to resume from", is_output=False),
    "samples": RunFile("pictures", is_output=False),
    "tracking": RunFile("files of a tracker", is_output=False),
    "wandb": RunFile("files of a tracker", is_output=False),
}
NO_OUTPUTS = {name for name, file in RUN_FILES.items() if not file.is_output}
MAY_CLEAN = {name for name, file in RUN_FILES.items() if file.may_clean}


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return exists(path / "status.json")


def read_status(path: Path) -> Status:
    """Return a run directory's status.json, or {}. Raises WorkFailed for a damaged one."""
    file = path / "status.json"
    return read_json(file, Status) if exists(file) else cast(Status, {})


def seconds_of(path: Path) -> float:
    """Return the duration of a run in seconds, without interruptions."""
    return read_status(path).get("seconds", 0.0)


def is_done(path: Path) -> bool:
    """Whether a run is finished; one whose status cannot be read is not."""
    with contextlib.suppress(DemeError):
        return read_status(path).get("state") == "done"
    return False


def read_metrics(path: Path) -> dict[str, Metric]:
    """Return the metrics of an evaluation or a search by name; parts are named <metric>/<part>.

    Raises MissingInput without metrics.json, WorkFailed for a damaged one.
    """
    return read_json(path / "metrics.json", Metrics)["metrics"]


def metrics_of(path: Path) -> dict[str, Metric]:
    """Return the metrics of a run by name, {} for one without. Raises WorkFailed if damaged."""
    return read_metrics(path) if exists(path / "metrics.json") else {}


def read_provenance(path: Path) -> Provenance:
    """Return the versions, command and inputs of a run. Raises MissingInput, WorkFailed."""
    return read_json(path / "run.json", Provenance)


def provenance_of(path: Path) -> Provenance | None:
    """Return the versions, command and inputs of a run, None if they cannot be read."""
    with contextlib.suppress(DemeError):
        return read_provenance(path)
    return None


def commit_of(made: Provenance) -> str:
    """Return the first digits of the commit of a run's code, and whether files had been changed.

    Empty for a run that was made outside a repository.
    """
    git = made.get("git")
    return "" if git is None else git["commit"][:10] + (" with changes" if git["dirty"] else "")


def command_of(path: Path) -> Command:
    """Return how a run was started, {} if that is not recorded. Raises WorkFailed."""
    file = path / "run.json"
    return read_json(file, Command) if exists(file) else Command()


def cost_of(path: Path) -> int | None:
    """Return the number of forward passes of a run, None if it is not recorded."""
    file = path / "cost.json"
    return read_json(file, Cost)["num_forward_passes"] if exists(file) else None


def read_best(path: Path) -> Best:
    """Return what a search found. Raises MissingInput without best.json, WorkFailed."""
    return read_json(path / "best.json", Best)


def read_outcome(path: Path) -> Outcome:
    """Return what `deme improve` found. Raises MissingInput without outcome.json, WorkFailed."""
    return read_json(path / "outcome.json", Outcome)


def outcome_of(path: Path) -> Outcome | None:
    """Return the result of `deme improve`; None for another command or an unfinished run."""
    return read_outcome(path) if exists(path / "outcome.json") else None


def places_of_input(name: str, home: str | Path, run: Path) -> tuple[Path, ...]:
    """Return where an input of `run`, which was made in the folder `home`, may be.

    It is in its recorded place or, if runs were moved, next to that run.
    """
    named = Path(name)
    return named, Path(home, named), run.parent.parent / (named.parent.name or "train") / named.name


def outputs_of(path: Path) -> dict[str, int]:
    """Return the outputs of a finished run: name -> size in bytes."""
    found = {}
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in NO_OUTPUTS)
        for file in (Path(folder, name) for name in sorted(names)):
            if file.name[0] != "." and file.name not in NO_OUTPUTS:
                found[file.relative_to(path).as_posix()] = file.stat().st_size
    return found


def damages(path: Path, status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each output of a finished run that differs from its record, and how.

    Names and sizes are compared, not contents. Runs of earlier versions recorded none.
    """
    for name, size in status.get("outputs", {}).items():
        try:
            found = (path / name).stat().st_size
        except (OSError, ValueError):  # too long, a null byte
            yield name, f"{name} is missing"
        else:
            if found != size:
                yield name, f"{name} has {found:,} bytes instead of {size:,}"


def damaged(path: Path, status: Mapping[str, Any]) -> str | None:
    """Return the first difference between outputs and their record, None if there is none."""
    return next((what for _, what in damages(path, status)), None)
