"""`deme merge`: put experts, or any models of one architecture, together in parameter space."""

from functools import cache
from pathlib import Path
from typing import Any

from deme.runs.inputs import content_hash, found_weights
from deme.runs.run import Run, say
from deme.system import files
from deme.system.errors import BadConfig

DTYPES = ("float32", "float16", "bfloat16")
COMPUTE_DTYPES = ("float32", "float64")


def run(config: dict[str, Any]) -> Path:
    """Merge unless it is done, or only say what merging will take; return the run directory."""
    if config["compute_dtype"] not in COMPUTE_DTYPES:
        raise BadConfig(
            f"compute_dtype must be {' or '.join(COMPUTE_DTYPES)}, got {config['compute_dtype']!r}"
        )
    if config["dtype"] not in (None, *DTYPES):
        raise BadConfig(f"dtype must be null, {', '.join(DTYPES)}; got {config['dtype']!r}")
    if type(config["plan"]) is not bool:
        raise BadConfig(f"plan must be true or false, got {config['plan']!r}")
    run = Run.planned(config)
    opened = cache(lambda: _opened(run))  # once, whether it is merged, reported, or both
    if config["plan"]:
        _plan(run, *opened())
        return run.path
    path = run.execute(lambda run: _merge(run, *opened()))
    if config["report"]:
        run.write_once("task_vectors.png", lambda: _report(run, opened()[0]))
    return path


def _opened(run: Run) -> tuple[Any, Any]:
    """Return the plan and the merge. Raises BadConfig for everything that headers show to be wrong."""
    from deme.builders.checkpoints import plan_of

    merge, error_text, search = None, "", run.single_input("search")
    if not run.inputs["experts"]:
        raise BadConfig("there is nothing to merge: inputs.experts names no models")
    try:
        merge = merge_of(run.config, len(run.inputs["experts"]), search)
        merge.try_out()
    except BadConfig as error:  # what is wrong with the models is told, too
        error_text = str(error)
    try:
        plan = plan_of(run, merge is not None and merge.of_checkpoints)
    except BadConfig as error:
        raise BadConfig(f"{error_text}\n{error}" if error_text else str(error)) from error
    if merge is None or error_text:
        raise BadConfig(error_text)
    merge.check_names(plan.names())
    if search is not None:
        _check_models(search, plan)
    return plan, merge


def merge_of(config: dict[str, Any], num_experts: int, search: Path | None = None) -> Any:
    """Return the merge that a config says, its weights those that a search found, if there is one. Raises BadConfig."""
    from deme.merging.combine import Merge

    settings = {key: value for key, value in config["merge"].items() if key != "_target_"}
    by_name = dict(config["weights_by_name"] or {})
    if search is not None:
        if isinstance(config["merge"].get("weights"), list):
            raise BadConfig(
                f"inputs.search brings merge weights, and merge.weights={config['merge']['weights']} is given, too\ntype: one of them"
            )
        found = found_weights(search)
        searched = found.get("merge")
        if searched is not None and _without_weights(searched) != _without_weights(config["merge"]):
            raise BadConfig(
                f"{search} looked for weights of {_told(searched)}, and this merge is {_told(config['merge'])}\n"
                "type: the merge=... of the search, with its settings"
            )
        settings["weights"], by_name = (
            found["weights"],
            {**found.get("weights_by_name", {}), **by_name},
        )
    return Merge(method_of(config), num_experts, by_name=by_name, **settings)


def method_of(config: dict[str, Any]) -> Any:
    """Return the function that a config merges by."""
    from deme.runs.config import partial

    return partial({"_target_": config["merge"]["_target_"]}).func  # type: ignore[attr-defined]


def _without_weights(merge: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in merge.items() if key != "weights"}


def _told(merge: dict[str, Any]) -> str:
    name = str(merge["_target_"]).rpartition(".")[2]
    return " ".join(
        [name, *(f"{k}={v}" for k, v in _without_weights(merge).items() if k != "_target_")]
    )


def _check_models(search: Path, plan: Any) -> None:
    """Raise BadConfig unless a search looked for weights of these models in this order."""
    searched = found_weights(search).get("models")
    if searched is not None and searched != [content_hash(model.folder) for model in plan.experts]:
        raise BadConfig(
            f"{search} looked for weights of other models, or of these in another order: {', '.join(str(m.folder) for m in plan.experts)}\n"
            "type: the inputs.experts=[...] of the search"
        )


def _plan(run: Run, plan: Any, merge: Any) -> None:
    """Say what a merge will take; look at every value for NaN."""
    import torch

    from deme.merging.stream import find_nan

    config = run.config
    accumulate: torch.dtype = getattr(torch, config["compute_dtype"])
    dtype = getattr(torch, config["dtype"]) if config["dtype"] else None
    for model in (plan.base, *plan.experts):
        what = (
            "base" if model is plan.base else f"t in {model.range}" if model.range else "no range"
        )
        say(f"  {model.folder}: {what}")
    weights = f", weights {merge.weights}" if merge.weights is not None else ""
    say(
        f"{merge.method.__name__}{weights}: {len(plan.names())} tensors, {plan.bytes_read / 1e6:,.1f} MB to read, "
        f"{plan.bytes_written(dtype, plan.folds) / 1e6:,.1f} MB to write, about {plan.memory(merge, accumulate) / 1e6:,.0f} MB of memory"
    )
    if bad := find_nan(plan):
        raise BadConfig(
            f"these models cannot be merged, {len(bad)} tensors:\n" + "\n".join(bad[:20])
        )
    say(f"all values are finite; it will be {run.path}" + (" (done already)" if run.done else ""))


def _merge(run: Run, plan: Any, merge: Any) -> None:
    import torch

    from deme.builders.checkpoints import copy_the_rest, fold_of
    from deme.merging.stream import merge_folder

    config, first = run.config, plan.experts[0]
    fold = fold_of(plan)
    accumulate = getattr(torch, config["compute_dtype"])
    dtype = getattr(torch, config["dtype"]) if config["dtype"] else None

    def fill(folder: Path) -> None:
        merge_folder(plan, merge, folder, accumulate, dtype, fold)
        copy_the_rest(plan, folder, with_projections=fold is None)
        about = {
            "range": None,
            "num_timesteps": first.about.get("num_timesteps"),
            "base": first.about.get("base"),
            "ema": first.about.get("ema"),
            "merge": merge.method.__name__,
            "projections": "folded" if fold is not None else None,
            "weights": merge.weights,
            "weights_by_name": merge.by_name,
        }
        files.write_json(folder / "deme.json", about)

    files.write_folder(run.path / "weights" / "merged", fill)
    globs = list(merge.by_name)
    other = (
        f", others in {', '.join(globs[:3])}{f' and {len(globs) - 3} more' if len(globs) > 3 else ''}"
        if globs
        else ""
    )
    weights = f" with weights {merge.weights}{other}" if merge.weights is not None else ""
    run.log(f"merged {len(plan.experts)} models by {merge.method.__name__}{weights}: {run.path}")
    if first.placement is not None:
        run.log(
            "foldable projections are multiplied into their layers: stock diffusers loads the result"
            if fold is not None
            else "projections of the paper's placement stay beside the network: only deme's loader applies them"
        )


def _report(run: Run, plan: Any) -> None:
    """Say and store how the task vectors of the experts lie to each other, with a picture (the paper's Figure 6b)."""
    from dataclasses import asdict

    from deme.merging.similarity import QUANTILES, similarity
    from deme.report.task_vectors import box_plots, told

    models = [str(model.range or model.folder.name) for model in plan.experts]
    found = [asdict(one) for one in similarity(plan)]
    files.write_json(
        run.path / "task_vectors.json", {"models": models, "quantiles": QUANTILES, "tensors": found}
    )
    with files.atomic(run.path / "task_vectors.png") as file:
        box_plots(models, found).savefig(file, format="png", dpi=110)
    for line in told(models, found):
        run.log(line)
