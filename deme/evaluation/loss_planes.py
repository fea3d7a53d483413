"""After a search: planes of the landscape through the weights that it found (the paper's Figure 6a)."""

from itertools import combinations
from typing import Any

from deme.commands.merge import method_of
from deme.runs.inputs import found_weights
from deme.runs.run import Run, say
from deme.system import files
from deme.system.errors import BadConfig


def check_slices(config: dict[str, Any]) -> None:
    """Raise BadConfig for slices that cannot be."""
    points, low, high = (config["slices"][key] for key in ("points", "low", "high"))
    if type(points) is not int or points < 0 or points == 1:
        raise BadConfig(
            f"slices.points must be 0 (none) or a whole number from 2 on, got {points!r}"
        )
    if not all(type(limit) in (int, float) for limit in (low, high)) or not low < high:
        raise BadConfig(f"slices.low must be a number below slices.high, got {low!r} and {high!r}")
    if points and config["granularity"] != "model":
        raise BadConfig(
            "slices are planes of one weight per expert\ntype: granularity=model, or slices.points=0"
        )


def draw_slices(run: Run, metric: str, objective: Any, live: Any) -> None:
    """Score the planes of every two experts' weights through the best vector, each score stored; draw them."""
    from deme.merging.search.evaluations import Evaluations
    from deme.report.search import Plane, landscape

    settings, best = run.config["slices"], found_weights(run.path)["weights"]
    if len(best) < 2:
        raise BadConfig(
            "slices are planes of two experts' weights, and there is one expert\ntype: slices.points=0"
        )
    live.live.incremental = (
        True  # neighbours differ in one weight; a picture needs no reproducible bits
    )
    least = max(0.0, settings["low"]) if method_of(run.config).mean else settings["low"]
    low, high = min(least, *best), max(settings["high"], *best)  # the best one is in sight
    axis = [low + i * (high - low) / (settings["points"] - 1) for i in range(settings["points"])]
    evaluations = Evaluations(objective, run.path / "slices.jsonl")
    planes = []
    for one, other in combinations(range(len(best)), 2):
        say(f"  {run.path.name}: the plane of experts {one} and {other}, {len(axis) ** 2} scores")
        scores = [
            [evaluations([{one: x, other: y}.get(i, w) for i, w in enumerate(best)]) for x in axis]
            for y in axis
        ]
        planes.append(Plane((one, other), axis, scores, (best[one], best[other])))
    with files.atomic(run.path / "slices.png") as file:
        landscape(metric, planes).savefig(file, format="png", dpi=110)
    run.log("slices.png shows the planes of the landscape")
