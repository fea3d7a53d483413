"""`deme merge`: merge experts, or any models of one architecture, in parameter space."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs import MergeSettings, Run, base_hash, build, check_options, takes_ema
from deme.system import (
    BadConfig,
    files,
    log_to_file,
    logger,
    print_result,
    progress,
    read_about,
    tracked,
)
from deme.tracking import Mirror

MUCH_DROPPED = 0.05  # share of the squared norm of a merged LoRA from which on a warning is given
MIN_SHARE_KEPT = 0.99  # share of the change that dtype=auto keeps

if TYPE_CHECKING:
    import torch

    from deme.merging.combine import Merge
    from deme.merging.plan import MergePlan


def run(config: dict[str, object]) -> Path:
    """Merge unless it is done, or only print what merging takes; return the run directory."""
    settings = build(MergeSettings, config)
    mirror = Mirror.of(settings.logger)
    run = Run.planned(config)
    opened = cache(lambda: _open(settings, run))
    if settings.plan:
        _print_plan(settings, run, *opened())
        return run.path
    if not run.done:
        check_options(settings)
        opened()  # whatever does not fit is said before there is a run directory
    run.execute(lambda run: _merge(settings, run, *opened()))
    if settings.report:
        with log_to_file(run.path / "log.txt"):
            run.write_once(
                "task_vectors.png", lambda: _report(run, opened()[0]), "task_vectors.json"
            )
    about = read_about(run.path / "weights" / "merged")
    text = f"merged {len(run.inputs['experts'])} models by {about.get('merge')}"
    if about.get("weights") is not None:
        text += f" with weights {about['weights']}"
        if by_name := about.get("weights_by_name"):
            text += f", other weights for {len(by_name)} blocks or tensors"
    print_result(text)
    mirror.publish(run.path)
    return run.path


def _open(settings: MergeSettings, run: Run) -> "tuple[MergePlan, Merge]":
    """Return the plan and the merge. Raises BadConfig for all errors that file headers show."""
    from deme.builders import build_merge, check_searched_models, open_plan
    from deme.builders.adapters import adapters_of, check_form

    experts, search = run.weights_folders("experts"), run.single_input("search")
    if not experts:
        raise BadConfig("there is nothing to merge: inputs.experts names no models")
    merge, errors = None, []
    try:
        merge = build_merge(settings.merge, settings.weights_by_name, len(experts), search)
        merge.try_out()
    except BadConfig as error:
        errors.append(str(error))
    try:
        of_checkpoints = merge is not None and merge.method.of == "checkpoints"
        plan = open_plan(settings.model, experts, of_checkpoints)
    except BadConfig as error:
        errors.append(str(error))
    if merge is None or errors:
        raise BadConfig("\n".join(errors))
    merge.check_names(plan.names())
    if adapters := adapters_of(plan):
        check_form(settings.lora.form, merge, settings.lora.rank, adapters)
    if search is not None:
        check_searched_models(search, [model.folder for model in plan.experts])
    return plan, merge


def _dtypes(settings: MergeSettings) -> "tuple[torch.dtype, torch.dtype | None]":
    """Return the precision of the arithmetic, and that of the merged weights.

    None: float32, or what is found to be enough (dtype=auto).
    """
    import torch

    written = settings.dtype if settings.dtype != "auto" else None
    return getattr(torch, settings.compute_dtype), getattr(torch, written) if written else None


def _written_dtype(
    settings: MergeSettings, plan: "MergePlan", merge: "Merge"
) -> "torch.dtype | None":
    """Return the precision of the merged weights, and log which share of the change it keeps."""
    import functools

    import torch

    from deme.merging.stream import share_kept_by_rounding

    compute_dtype, dtype = _dtypes(settings)
    if settings.dtype == "auto":
        specs = [
            spec
            for model in plan.experts
            for t in model.parts.values()
            for spec in t.specs.values()
        ]
        kinds = [kind for _, kind in specs if kind.is_floating_point]
        dtype = functools.reduce(torch.promote_types, kinds)
    if dtype is None or dtype.itemsize >= torch.float32.itemsize:
        return dtype
    with progress("checking the precision", plan.bytes_read / 1e6, "MB") as bar:
        share = share_kept_by_rounding(
            plan, merge, dtype, compute_dtype, lambda count: bar.advance(count / 1e6)
        )
    name = str(dtype).removeprefix("torch.")
    logger.info("rounding to %s keeps %.1f%% of the change", name, 100 * share)
    if settings.dtype != "auto":
        return dtype
    enough = share >= MIN_SHARE_KEPT
    logger.info("the merged weights are in %s", name if enough else "float32")
    return dtype if enough else None


def _print_plan(settings: MergeSettings, run: Run, plan: "MergePlan", merge: "Merge") -> None:
    """Print what a merge takes. Raises BadConfig for NaN in any model."""
    from deme.merging.stream import find_nan

    compute_dtype, dtype = _dtypes(settings)
    print_result(f"  {plan.base.folder}: base")
    for model in plan.experts:
        print_result(f"  {model.folder}: {f't in {model.range}' if model.range else 'no range'}")
    weights = f", weights {merge.weights}" if merge.weights is not None else ""
    written = plan.bytes_written(dtype, plan.folds)
    print_result(
        f"{merge.method.__name__}{weights}: {len(plan.names())} tensors, "
        f"{plan.bytes_read / 1e6:,.1f} MB to read, {written / 1e6:,.1f} MB to write, "
        f"about {plan.memory(merge, compute_dtype) / 1e6:,.0f} MB of memory"
    )
    with progress("reading", plan.bytes_read / 1e6, "MB") as bar:
        bad = find_nan(plan, lambda count: bar.advance(count / 1e6))
    if bad:
        raise BadConfig(
            f"these models cannot be merged, {len(bad)} tensors:\n" + "\n".join(bad[:20])
        )
    done = " (done already)" if run.done else ""
    print_result(f"all values are finite; the run directory is {run.path}{done}")


def _merge(settings: MergeSettings, run: Run, plan: "MergePlan", merge: "Merge") -> None:
    from deme.builders import copy_other_parts, fold_of
    from deme.builders.adapters import adapters_of
    from deme.merging.stream import merge_folder

    if adapters_of(plan) and settings.lora.form != "fuse":
        _merge_as_adapter(settings, run, plan, merge)
        return
    compute_dtype, dtype = _dtypes(settings)[0], _written_dtype(settings, plan, merge)
    fold, first = fold_of(plan), plan.experts[0]

    def fill(folder: Path) -> None:
        with progress("merging", plan.bytes_written(dtype, fold is not None) / 1e6, "MB") as bar:
            merge_folder(
                plan, merge, folder, compute_dtype, dtype, fold,
                lambda count: bar.advance(count / 1e6),
            )  # fmt: skip
        copy_other_parts(plan, folder, with_projections=fold is None)
        projections = "folded" if fold is not None else None
        files.write_json(folder / "deme.json", _about(plan, merge, projections=projections))

    files.write_folder(run.path / "weights" / "merged", fill)
    logger.debug("merged %d models", len(plan.experts))  # for log.txt
    if first.placement is not None:
        logger.info(
            "the projections are multiplied into their layers: stock diffusers loads the result"
            if fold is not None
            else "the projections are stored next to the network: only deme's loader applies them"
        )


def _merge_as_adapter(settings: MergeSettings, run: Run, plan: "MergePlan", merge: "Merge") -> None:
    """Write one LoRA, and say what its rank drops."""
    from deme.builders.adapters import adapters_of, merge_adapters

    form, rank, about = settings.lora.form, settings.lora.rank, plan.experts[0].about
    layers = {layer for adapter in adapters_of(plan) for layer in adapter.layers}

    def fill(folder: Path) -> None:
        with progress("merging", len(layers), "layers") as bar:
            merged = merge_adapters(
                plan, merge, form, rank, folder, _dtypes(settings)[0], lambda: bar.advance(1)
            )
        given = str(settings.model.get("path"))
        more: dict[str, object] = {
            "base_model": about.get("base_model", given),
            **({"base_ema": True} if about.get("base_ema", takes_ema(settings.model)) else {}),
            "rank": merged.rank,
            "dropped": merged.dropped,
        }
        base = about.get("base") or base_hash(settings.model, plan.base.folder)
        files.write_json(folder / "deme.json", {**_about(plan, merge, **more), "base": base})
        dropped = f"{merged.dropped:.2%} of the squared norm of the change is dropped"
        logger.info(
            "one LoRA of rank %d for %d layers; %s",
            merged.rank,
            merged.num_layers,
            "exactly the weighted sum" if form == "cat" else dropped,
        )
        if merged.dropped > MUCH_DROPPED:
            logger.warning(
                "%s, as the merge has a higher rank than %d\n"
                "to keep more, type: lora.rank=<larger>, or lora.form=fuse",
                dropped,
                merged.rank,
            )

    files.write_folder(run.path / "weights" / "merged", fill)


def _about(plan: "MergePlan", merge: "Merge", **more: object) -> dict[str, object]:
    """Return what deme.json says of the merged weights."""
    about = plan.experts[0].about
    return {
        "range": None,
        "num_timesteps": about.get("num_timesteps"),
        "base": about.get("base"),
        "ema": about.get("ema"),
        **({"sample_size": about["sample_size"]} if "sample_size" in about else {}),
        "merge": merge.method.__name__,
        "weights": merge.weights,
        "weights_by_name": merge.by_name,
        **more,
    }


def _report(run: Run, plan: "MergePlan") -> None:
    """Write norms, cosines and sign agreement of the task vectors, with a figure (Figure 6b)."""
    from deme.merging.similarity import QUANTILES, similarity
    from deme.report.task_vectors import box_plots, summary

    models = [str(model.range or model.folder.name) for model in plan.experts]
    compared = tracked(similarity(plan), "comparing task vectors", len(plan.names()), "tensors")
    found = [asdict(tensor) for tensor in compared]
    files.write_json(
        run.path / "task_vectors.json",
        {"models": models, "quantiles": QUANTILES, "tensors": found},
    )
    with files.atomic(run.path / "task_vectors.png") as file:
        box_plots(models, found).savefig(file, format="png", dpi=110)
    for line in summary(models, found):
        logger.info(line)
