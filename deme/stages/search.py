"""`deme search`: look for merge weights on the training images with seeds that no report uses; every score is kept."""

import time
from pathlib import Path
from typing import Any

from deme import files
from deme.checks import check_numbers
from deme.errors import BadConfig
from deme.inputs import content_hash, weights_folder
from deme.runs import Run, say

SAY_AFTER = 10.0  # seconds between lines
ENDLESS = 10**9  # evaluations of which no count and no end is told


def run(config: dict[str, Any]) -> Path:
    """Search unless it is done; return the run directory."""
    check_numbers(config)
    if config["num_images"] < 2:
        raise BadConfig(f"the distance needs at least 2 images, num_images={config['num_images']} were asked for")
    _check_slices(config)
    return Run.planned(config).execute(_search)


def _search(run: Run) -> None:
    from deme.config import make
    from deme.merging.plan import plan_merge
    from deme.merging.search.evaluations import BudgetSpent, Evaluations
    from deme.report.search import best_so_far
    from deme.stages.checkpoints import open_checkpoint
    from deme.stages.common import base_folder
    from deme.stages.objective import objective_of

    config, base = run.config, base_folder(run.config)
    models = [open_checkpoint(weights_folder(path)) for path in run.inputs["experts"]]
    plan = plan_merge(open_checkpoint(base), models, content_hash(base))
    search = make(config["search"])
    metric, label, objective, live = objective_of(run, plan)
    total = search.count(len(live.uniform))
    total = total if total is not None and total < ENDLESS else None  # a grid over blocks: only a budget ends it
    said = time.monotonic()

    def told(_: Any) -> None:
        nonlocal said
        if (now := time.monotonic()) - said > SAY_AFTER:
            said = now
            done = len(evaluations.history)
            scored = [one for one in evaluations.history if one.fraction == 1]
            best = f", best {min(one.score for one in scored):.4f}" if scored else ""
            left = f", about {evaluations.seconds / done * max(0, total - done):.0f} s left" if total else ""
            say(f"  {run.path.name}: {done}/{total or '?'} evaluations{best}{left}")

    evaluations = Evaluations(
        objective,
        run.path / "evaluations.jsonl",
        config["rungs"],
        config["keep"],
        config["max_images"],
        config["max_seconds"],
        told,
    )
    spent = ""
    try:
        search.run(evaluations, live.uniform)
    except BudgetSpent as budget:
        spent = f"; the budget is spent: {budget}"
    best, history = evaluations.best, evaluations.history
    settings = live.settings(best.weights)
    found = {"weights": settings["merge"]["weights"], "weights_by_name": settings["weights_by_name"]}
    ranges = [[model.range.low, model.range.high] if model.range else None for model in plan.experts]
    files.write_json(run.path / "best.json", {**found, "score": best.score, "ranges": ranges})
    files.write_text(run.path / "best.yaml", _as_yaml(config["merge"], found, f"{metric} {best.score:.6g}"))
    with files.atomic(run.path / "best_so_far.png") as file:
        best_so_far(metric, history).savefig(file, format="png", dpi=110)
    seen = sum(one.images * (3 if one.gradient else 1) for one in history)  # a backward pass counts as two forward ones
    forwards = seen * objective.forwards_per_image
    if config["slices"]["points"]:
        live.live.incremental = True  # neighbours differ in one weight; a picture needs no reproducible bits
        _slices(run, metric, objective, best)
    cost = {"evaluations": len(history), "images": evaluations.images, "seconds": round(evaluations.seconds, 1)}
    files.write_json(run.path / "cost.json", {"forwards": forwards, **cost})
    files.write_json(
        run.path / "metrics.json",
        {
            "cell": {"suite": config["suite"], **config["cell"]},
            "metrics": {metric: {"value": best.score, **label, "weights": found["weights"], **cost}},
        },
    )
    run.log(
        f"searched {len(history)} candidates, best {metric} {best.score:.4f} at {found['weights']}: {run.path}{spent}"
    )


def _slices(run: Run, metric: str, objective: Any, best: Any) -> None:
    """Score the planes of every two experts' weights through the best vector, each score stored; draw them."""
    from itertools import combinations

    from deme.merging.search.evaluations import Evaluations
    from deme.report.search import Plane, landscape

    settings, count = run.config["slices"], len(best.weights)
    low, high = min(settings["low"], *best.weights), max(settings["high"], *best.weights)  # the best one is in sight
    axis = [low + i * (high - low) / (settings["points"] - 1) for i in range(settings["points"])]
    evaluations = Evaluations(objective, run.path / "slices.jsonl")
    planes = []
    for one, other in combinations(range(count), 2):
        say(f"  {run.path.name}: the plane of experts {one} and {other}, {len(axis) ** 2} scores")
        scores = [
            [evaluations([{one: x, other: y}.get(i, w) for i, w in enumerate(best.weights)]) for x in axis]
            for y in axis
        ]
        planes.append(Plane((one, other), axis, scores, (best.weights[one], best.weights[other])))
    with files.atomic(run.path / "slices.png") as file:
        landscape(metric, planes).savefig(file, format="png", dpi=110)


def _check_slices(config: dict[str, Any]) -> None:
    points, low, high = (config["slices"][key] for key in ("points", "low", "high"))
    if type(points) is not int or points < 0 or points == 1:
        raise BadConfig(f"slices.points must be 0 (none) or a whole number from 2 on, got {points!r}")
    if not all(type(limit) in (int, float) for limit in (low, high)) or not low < high:
        raise BadConfig(f"slices.low must be a number below slices.high, got {low!r} and {high!r}")
    if points and config["granularity"] != "model":
        raise BadConfig("slices are planes of one weight per expert\ntype: granularity=model, or slices.points=0")


def _as_yaml(merge: dict[str, Any], found: dict[str, Any], score: str) -> str:
    """The found weights as an option file of `deme merge`: <folder>/experiment/<name>.yaml with --config-dir=<folder>."""
    import yaml

    head = f"# @package _global_\n# found by deme search: {score}\n"
    body = {"merge": {**merge, "weights": found["weights"]}, "weights_by_name": found["weights_by_name"] or None}
    return head + yaml.safe_dump(body, sort_keys=False)
