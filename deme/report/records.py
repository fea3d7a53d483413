"""What is on disk about a model: the run that made it, the training runs behind it, and the
evaluations of it. No torch here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deme.runs import (
    AverageSettings,
    EvaluateSettings,
    FromModelSettings,
    LossMass,
    RunSettings,
    TrainSettings,
    frozen_settings,
    is_done,
    is_run,
    metrics_of,
    places_of_input,
    read_provenance,
    read_status,
    weights_folder,
)
from deme.system import (
    SNAPSHOTS,
    DemeError,
    JsonObject,
    exists,
    files,
    first_line,
    logger,
    read_about,
    read_json,
    read_jsonl,
)


@dataclass(frozen=True)
class Training:
    """A training run: its settings, and the files next to its weights."""

    settings: TrainSettings
    about: JsonObject


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: its settings and its metrics with their labels."""

    settings: EvaluateSettings
    metrics: Mapping[str, JsonObject]


@dataclass(frozen=True)
class ModelHistory:
    """A model and its history; unknown fields are empty.

    `weights`: content hash. `about`: its deme.json. `merge`: settings of the run that merged or
    averaged it. `made`: run.json of the run that wrote it. `trainings`: the trainings it comes
    from, in the order of their ranges. `lost`: names of experts whose runs no longer exist.
    """

    name: str
    weights: str
    about: JsonObject
    merge: RunSettings | None = None
    made: JsonObject = field(default_factory=dict)
    trainings: tuple[Training, ...] = ()
    lost: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def kind(self) -> str:
        """merged, averaged, expert, finetuned, pretrained (no base), or model (nothing known)."""
        if self.about.get("weights") is not None:
            return "merged"
        if isinstance(self.merge, AverageSettings):
            return "averaged"
        if self.about.get("range") is not None:
            return "expert"
        if not self.trainings:
            return "model"
        return "finetuned" if self.about.get("base") else "pretrained"

    @property
    def base(self) -> str | None:
        """What the base was called: a hub: or asset: name as it is, of a path the last part or the
        run that it is of."""
        for settings in (*(each.settings for each in self.trainings), self.merge):
            if isinstance(settings, FromModelSettings) and (path := settings.model.get("path")):
                return public_name(str(path))
        return None


def public_name(path: str) -> str:
    """Return how a path is called where others read it: without the folders of whoever made it."""
    if path.startswith(("hub:", "asset:")):
        return path
    parts = Path(path).parts
    if len(parts) > 2 and parts[-2] == "weights":
        return parts[-3]
    if len(parts) > 3 and parts[-3:-1] == ("weights", SNAPSHOTS):
        return f"{parts[-4]}, step {parts[-1].lstrip('0')}"
    return Path(path).name


def read_history(place: Path, called: str) -> ModelHistory:
    """Return the history of a run directory, a run's weights folder, or another model folder.

    `called`: the name that the user typed.
    """
    folder = weights_folder(place)
    run = place if is_run(place) else folder.parent.parent
    about = read_about(folder)
    if folder.parent.name != "weights" or not is_run(run):
        return ModelHistory(
            public_name(called) or place.resolve().name, files.sha256(folder), about
        )
    settings = frozen_settings(run)
    made = read_provenance(run)
    weights = read_status(run).get("weights", {}).get(folder.name) or files.sha256(folder)
    trainings, lost = _trainings(run, settings, about)
    trainings.sort(key=lambda each: each.about.get("range") or [0])
    return ModelHistory(
        run.name,
        weights,
        about,
        None if isinstance(settings, TrainSettings) else settings,
        made,
        tuple(trainings),
        tuple(lost),
        tuple(_evaluations(run, weights)),
    )


def _trainings(
    run: Path, settings: RunSettings, about: JsonObject
) -> tuple[list[Training], list[str]]:
    """Return the training runs behind the weights of a run, and the names of those not found."""
    if isinstance(settings, TrainSettings):
        return [Training(settings, about)], []
    made = read_provenance(run)
    trainings, lost = [], list[str]()
    name = "run" if isinstance(settings, AverageSettings) else "experts"
    inputs = made["inputs"].get(name, {})
    for named in inputs:
        source = _found(named, run, made)
        if source is None:
            lost.append(public_name(named))
            continue
        weights = settings.weights_meant(name, len(inputs))
        if weights == SNAPSHOTS:
            known = {**read_about(weights_folder(source)), "ema": False}
        else:
            known = {**read_about(weights_folder(source, weights))}
        more, missing = _trainings(source, frozen_settings(source), known)
        trainings += more
        lost += missing
    return trainings, lost


def _found(named: str, run: Path, made: JsonObject) -> Path | None:
    """Return a run that is the input of another one: in its recorded place or next to the other."""
    places = places_of_input(named, made.get("directory", "."), run)
    return next((each for each in places if exists(each / "config.yaml") and is_done(each)), None)


def _evaluations(run: Path, weights: str) -> Iterator[Evaluation]:
    """Yield the finished evaluations of the same suite that took exactly these weights."""
    for folder in sorted((run.parent.parent / "evaluate").glob("*")):
        try:
            if read_status(folder).get("state") != "done" or not (metrics := metrics_of(folder)):
                continue
            inputs = read_provenance(folder)["inputs"]
            if weights in inputs.get("weights", {}).values():
                evaluated = frozen_settings(folder)
                if isinstance(evaluated, EvaluateSettings):
                    yield Evaluation(evaluated, metrics)
        except DemeError as error:
            logger.warning("left out: %s", first_line(error))


def task_weight_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and weights of every task of a training run, {} for a run without tasks."""
    rows = read_jsonl(folder / "metrics.jsonl", dict[str, float | None])
    if not any("task_weight/0" in row for row in rows):
        return {}
    curves = {}
    for j, item in enumerate(read_json(folder / "weighting.json", LossMass)["ranges"]):
        points = [(row.get("step"), row.get(f"task_weight/{j}")) for row in rows]
        known = [(int(step), w) for step, w in points if step is not None and w is not None]
        curves[f"t in {item}"] = ([step for step, _ in known], [weight for _, weight in known])
    return curves
