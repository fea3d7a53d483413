"""The curves of a run: of a training by optimizer step, of a search by evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from deme.runs import HELD_OUT_LOSS, sample_grid
from deme.system import read_jsonl
from deme.tracking.record import Point, is_picture

NO_VALUES = ("step", "time")
SAMPLES = "train/samples"  # the grids of a training while it went
Row = Mapping[str, float | None]


class _Evaluation(TypedDict):
    """A line of evaluations.jsonl."""

    weights: list[float]
    score: float | None
    fraction: float
    images: NotRequired[int]


def training_point(row: Row, run: Path) -> Point:
    """Return what is sent of a row of a run's curve; numbers that are not finite are left out.

    A held-out loss may come with a grid of samples. Validation before the training is sent as step
    0.
    """
    step, time = int(row.get("step") or 0), row.get("time")
    values = {
        f"train/{name}": value
        for name, value in row.items()
        if name not in NO_VALUES and value is not None
    }
    grid = sample_grid(run, step + 1)
    images = {SAMPLES: grid} if HELD_OUT_LOSS in row and is_picture(grid) else {}
    return Point(max(0, step), values, time, images)


def training_curve(run: Path) -> list[Point]:
    """Return the curve of metrics.jsonl with the speed of speed.jsonl, empty without them."""
    kind = dict[str, float | None]
    timed = {row.get("step"): row for row in read_jsonl(run / "speed.jsonl", kind)}
    rows = read_jsonl(run / "metrics.jsonl", kind)
    return [training_point({**row, **timed.get(row.get("step"), {})}, run) for row in rows]


def search_curve(run: Path) -> list[Point]:
    """Return the score of every evaluation of a search, and the best score on all images so far."""
    points, best = list[Point](), None
    for number, row in enumerate(read_jsonl(run / "evaluations.jsonl", _Evaluation), start=1):
        values = {f"search/weight/{i}": weight for i, weight in enumerate(row["weights"])}
        values["search/fraction"] = row["fraction"]
        if (score := row["score"]) is not None:
            values["search/score"] = score
            if row["fraction"] == 1:
                best = score if best is None else min(best, score)
        if best is not None:
            values["search/best"] = best
        points.append(Point(number, values))
    return points
