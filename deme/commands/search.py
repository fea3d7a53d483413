"""`deme search`: look for merge weights on the training images with seeds that no report uses; every score is kept."""

import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from deme.commands.merge import method_of
from deme.evaluation.loss_planes import check_slices, draw_slices
from deme.runs.checks import check_values
from deme.runs.inputs import content_hash
from deme.runs.run import Run, say
from deme.system import files
from deme.system.errors import BadConfig

SAY_AFTER = 10.0  # seconds between lines
ENDLESS = 10**9  # evaluations of which no count and no end is told


def run(config: dict[str, Any]) -> Path:
    """Search unless it is done; return the run directory."""
    check_values(config)
    if config["num_images"] < 2:
        raise BadConfig(
            f"the distance needs at least 2 images, num_images={config['num_images']} were asked for"
        )
    check_slices(config)
    run = Run.planned(config)
    opened = cache(lambda: _opened(run))  # once, whether it is searched, sliced, or both
    path = run.execute(lambda run: _search(run, *opened()))
    if config["slices"]["points"]:
        run.write_once(
            "slices.png",
            lambda: draw_slices(run, opened().metric, opened().objective, opened().live),
        )
    return path


class Opened(NamedTuple):
    """What a search works on: models, what it minimises by name and label, and the model that becomes the merge."""

    plan: Any
    metric: str
    label: dict[str, Any]
    objective: Any
    live: Any


def _opened(run: Run) -> Opened:
    from deme.builders.checkpoints import plan_of
    from deme.evaluation.objective import objective_of

    _check_method(run.config)
    plan = plan_of(run)
    return Opened(plan, *objective_of(run, plan))


def _search(
    run: Run, plan: Any, metric: str, label: dict[str, Any], objective: Any, live: Any
) -> None:
    from deme.merging.search.evaluations import BudgetSpent, Evaluations
    from deme.report.search import best_so_far
    from deme.runs.config import instantiate

    config = run.config
    search = instantiate(config["search"])
    total = search.count(len(live.uniform))
    total = (
        total if total is not None and total < ENDLESS else None
    )  # a grid over blocks: only a budget ends it
    said = time.monotonic()

    def told(_: Any) -> None:
        nonlocal said
        if (now := time.monotonic()) - said > SAY_AFTER:
            said = now
            done = len(evaluations.history)
            scored = [one for one in evaluations.history if one.fraction == 1]
            best = f", best {min(one.score for one in scored):.4f}" if scored else ""
            left = (
                f", about {evaluations.seconds / done * max(0, total - done):.0f} s left"
                if total
                else ""
            )
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
        if not any(one.fraction == 1 for one in evaluations.history):
            raise BadConfig(
                f"the budget ends before any merge was scored on all images: {budget}\ntype: a larger one"
            ) from budget
    best, history = evaluations.best, evaluations.history
    settings = live.settings(best.weights)
    found = {
        "weights": settings["merge"]["weights"],
        "weights_by_name": settings["weights_by_name"],
    }
    ranges = [
        [model.range.low, model.range.high] if model.range else None for model in plan.experts
    ]
    about = {
        "merge": config["merge"],
        "models": [content_hash(model.folder) for model in plan.experts],
    }
    files.write_json(
        run.path / "best.json", {**found, "score": best.score, "ranges": ranges, **about}
    )
    files.write_text(
        run.path / "best.yaml", _as_yaml(config["merge"], found, f"{metric} {best.score:.6g}")
    )
    with files.atomic(run.path / "best_so_far.png") as file:
        best_so_far(metric, history).savefig(file, format="png", dpi=110)
    seen = sum(
        one.images * (3 if one.gradient else 1) for one in history
    )  # a backward pass counts as two forward ones
    forwards = seen * objective.num_forward_passes_per_image
    counts = {"evaluations": len(history), "images": evaluations.images}
    seconds = round(evaluations.seconds, 1)  # apart from what can be repeated
    files.write_json(
        run.path / "cost.json", {"num_forward_passes": forwards, **counts, "seconds": seconds}
    )
    files.write_json(
        run.path / "metrics.json",
        {
            "cell": {"suite": config["suite"], **config["cell"]},
            "metrics": {
                metric: {"value": best.score, **label, "weights": found["weights"], **counts}
            },
        },
    )
    where = "mean over blocks " if found["weights_by_name"] else ""
    told_at = f"{where}{[round(w, 4) for w in found['weights']]}"
    run.log(
        f"searched {len(history)} candidates, best {metric} {best.score:.4f} at {told_at}: {run.path}{spent}"
    )


def _check_method(config: dict[str, Any]) -> None:
    """Before any score: a method that takes means is not asked for negative weights."""
    method, low = method_of(config), config["search"].get("low", 0)
    name = method.__name__
    if method.of == "checkpoints":
        raise BadConfig(
            f"merge={name} wants weights of sum 1, which no search here keeps\ntype: merge=weighted_sum"
        )
    if method.mean and isinstance(low, (int, float)) and low < 0:
        raise BadConfig(
            f"merge={name} takes a weighted mean, and search.low={low} is negative\ntype: search.low=0"
        )


def _as_yaml(merge: dict[str, Any], found: dict[str, Any], score: str) -> str:
    """The found weights as an option file of `deme merge`: <folder>/experiment/<name>.yaml with --config-dir=<folder>."""
    import yaml

    head = f"# @package _global_\n# found by deme search: {score}\n"
    body = {
        "merge": {**merge, "weights": found["weights"]},
        "weights_by_name": found["weights_by_name"] or None,
    }
    return head + yaml.safe_dump(body, sort_keys=False)
