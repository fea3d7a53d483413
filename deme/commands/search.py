"""`deme search`: search merge weights on the training images; every score is stored."""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from deme.commands.arguments import check_device
from deme.runs import (
    Run,
    SearchSettings,
    build,
    check_options,
    content_hash,
    find_snapshots,
    instantiate,
    read_best,
    read_metrics,
)
from deme.system import BadConfig, digits_for, files, logger, print_result, progress
from deme.tracking import Mirror

if TYPE_CHECKING:
    from deme.evaluation.objective import Scored
    from deme.merging.plan import MergePlan
    from deme.merging.search import Search
    from deme.merging.search.journal import Evaluation

MAX_COUNT = 10**9  # more evaluations than this are not shown as a total


def run(config: dict[str, object]) -> Path:
    """Search unless it is done; return the run directory."""
    settings = build(SearchSettings, config)
    search: Search = instantiate(settings.search)  # refuses what its class does not work with
    mirror = Mirror.of(settings.logger)
    run = Run.planned(config)
    if not run.done:
        _check_method(settings, getattr(search, "varies_sum_alone", False))
        check_options(settings)
        check_device(run, settings.compute)
        _open_models(settings, run)  # what does not fit is said before there is a run directory
    opened = cache(lambda: _open(settings, run))
    run.execute(lambda run: _search(settings, run, opened()))
    if settings.loss_planes.points:
        from deme.evaluation.loss_planes import draw_loss_planes

        run.write_once(
            "loss_planes.png", lambda: draw_loss_planes(settings.loss_planes, run.path, opened())
        )
    best = read_best(run.path)
    mean = "mean over blocks " if best.get("weights_by_name") else ""
    weights = f"{mean}{[round(w, 4) for w in best['weights']]}"
    metric = next(iter(read_metrics(run.path)))
    score = f"{best['score']:.{digits_for(best['score'])}f}"
    print_result(f"best {metric} on training images: {score} at merge weights {weights}")
    mirror.publish(run.path)
    return run.path


def _open(settings: SearchSettings, run: Run) -> "Scored":
    from deme.evaluation.objective import build_objective

    return build_objective(settings, _open_models(settings, run))


def _open_models(settings: SearchSettings, run: Run) -> "MergePlan":
    """Return the models to combine. Raises BadConfig for mismatches in their file headers."""
    from deme.builders import load_merge_method, open_average, open_plan

    if (source := run.single_input("snapshots_of")) is not None:
        candidates = [snapshot.folder for snapshot in find_snapshots(source)]
        if len(candidates) < 2:
            raise BadConfig(
                f"{source} has only one snapshot, and a mixture needs two or more\n"
                "type: deme train snapshots.every=<fewer steps>"
            )
        return open_average(candidates)
    of_checkpoints = load_merge_method(settings.merge).of == "checkpoints"
    return open_plan(settings.model, run.weights_folders("experts"), of_checkpoints)


def _check_method(settings: SearchSettings, varies_sum_alone: bool) -> None:
    """Raise BadConfig for a merge method that does not take the weights of this search."""
    from deme.builders import load_merge_method

    method, low = load_merge_method(settings.merge), settings.search.get("low", 0)
    if settings.inputs.get("snapshots_of") and method.of != "checkpoints":
        raise BadConfig(
            f"merge={method.__name__} merges experts of one base, and snapshots are combined with "
            "a sum of 1\ntype: merge=linear"
        )
    if method.of == "checkpoints" and settings.loss_planes.points:
        raise BadConfig(
            f"the weights of merge={method.__name__} have the sum 1, and loss planes vary two of "
            "them alone\ntype: loss_planes.points=0"
        )
    if (method.mean or method.of == "checkpoints") and varies_sum_alone:
        raise BadConfig(
            f"the weights of merge={method.__name__} have the sum 1, and this search varies their "
            "sum\ntype: merge=weighted_sum, or another search"
        )
    if method.mean and isinstance(low, (int, float)) and low < 0:
        raise BadConfig(
            f"merge={method.__name__} is a weighted mean, and search.low={low} is negative\n"
            "type: search.low=0"
        )


def _search(settings: SearchSettings, run: Run, scored: "Scored") -> None:
    from deme.merging.search.evaluations import BudgetSpent, Evaluations
    from deme.report.search import best_so_far

    search: Search = instantiate(settings.search)
    total = search.count(len(scored.live.uniform))
    best_score = math.inf

    def show(evaluation: "Evaluation") -> None:
        nonlocal best_score
        if evaluation.fraction == 1:
            best_score = min(best_score, evaluation.score)
        bar.advance(best=f"{best_score:.4f}")

    evaluations = Evaluations(
        scored.objective,
        run.path / "evaluations.jsonl",
        settings.rungs,
        settings.keep,
        settings.max_images,
        settings.max_seconds,
        show,
    )
    shown_total = total if total is not None and total < MAX_COUNT else None
    with progress("search", shown_total, "evaluations", evaluations.num_stored) as bar:
        try:
            search.run(evaluations, scored.live.uniform)
        except BudgetSpent as budget:
            if not any(one.fraction == 1 for one in evaluations.history):
                raise BadConfig(
                    f"the budget ends before any merge was scored on all images: {budget}\n"
                    "type: a larger max_images=<n> or max_seconds=<n>"
                ) from budget
            logger.info("the budget is spent: %s", budget)
    best, history, metric = evaluations.best, evaluations.history, scored.metric
    option, by_name = scored.live.merge_settings(best.weights)
    experts = scored.plan.experts
    files.write_json(
        run.path / "best.json",
        {
            "weights": option["weights"],
            "weights_by_name": by_name,
            "score": best.score,
            "ranges": [
                [model.range.low, model.range.high] if model.range else None for model in experts
            ],
            "merge": settings.merge_without_sum,
            "models": [content_hash(model.folder) for model in experts],
        },
    )
    files.write_text(
        run.path / "best.yaml", _as_yaml(option, by_name, f"{metric} {best.score:.6g}")
    )
    with files.atomic(run.path / "best_so_far.png") as file:
        best_so_far(metric, history).savefig(file, format="png", dpi=110)
    per_image = scored.objective.num_forward_passes_per_image
    if search.needs_gradients:
        per_image *= 3  # a backward pass costs two forward passes
    counts = {"evaluations": len(history), "images": evaluations.images}
    files.write_json(
        run.path / "cost.json",
        {
            "num_forward_passes": evaluations.images * per_image,
            **counts,
            "seconds": round(evaluations.seconds, 1),  # in no file that another run must reproduce
        },
    )
    result = {"value": best.score, **scored.label, "weights": option["weights"], **counts}
    cell = {"suite": settings.suite, **settings.cell}
    files.write_json(run.path / "metrics.json", {"cell": cell, "metrics": {metric: result}})
    logger.info("searched %d candidates by %s", len(history), metric)


def _as_yaml(option: Mapping[str, object], by_name: Mapping[str, object], score: str) -> str:
    """Return an option file of `deme merge` for <folder>/experiment/ of --config-dir=<folder>."""
    import yaml

    body = {"merge": dict(option), "weights_by_name": dict(by_name) or None}
    head = f"# @package _global_\n# found by deme search: {score}\n"
    return head + yaml.safe_dump(body, sort_keys=False)
