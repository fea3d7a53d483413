"""`deme average`: average the snapshots of a training run, or the weights of several runs.

Like a merge, the result can be the input of every other command.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deme.runs import AverageSettings, Run, build
from deme.system import files, logger, print_result, progress, read_about
from deme.tracking import Mirror

if TYPE_CHECKING:
    from deme.merging.averages import WeightedModels
    from deme.merging.plan import MergePlan

FOLDER = Path("weights", "averaged")
T = TypeVar("T")


def run(config: dict[str, object]) -> Path:
    """Average unless it is done; return the run directory."""
    settings = build(AverageSettings, config)
    mirror = Mirror.of(settings.logger)
    run = Run.planned(config)
    opened = cache(lambda: _open(settings, run))
    if not run.done:
        opened()  # whatever does not fit is said before there is a run directory
    run.execute(lambda run: _average(settings, run, *opened()))
    print_result(f"averaged: {read_about(run.path / FOLDER).get('average')}")
    mirror.publish(run.path)
    return run.path


def _open(settings: AverageSettings, run: Run) -> "tuple[WeightedModels, MergePlan]":
    """Return models, weights and the plan. Raises BadConfig for all that file headers show."""
    from deme.builders import open_average, weigh_models

    models = weigh_models(settings, run)
    return models, open_average(models.folders)


def _average(
    settings: AverageSettings, run: Run, models: "WeightedModels", plan: "MergePlan"
) -> None:
    import torch

    from deme.builders import copy_other_parts
    from deme.merging.combine import Merge
    from deme.merging.methods.linear import linear
    from deme.merging.stream import merge_folder

    merge = Merge(linear, len(models.weights), models.weights, models.by_name)
    merge.try_out()
    dtype = getattr(torch, settings.dtype) if settings.dtype else None
    abouts = [model.about for model in plan.experts]

    def fill(folder: Path) -> None:
        with progress("averaging", plan.bytes_written(dtype) / 1e6, "MB") as bar:
            merge_folder(
                plan, merge, folder, getattr(torch, settings.compute_dtype), dtype,
                on_written=lambda count: bar.advance(count / 1e6),
            )  # fmt: skip
        copy_other_parts(plan, folder, with_projections=True)
        size = _common([about.get("sample_size") for about in abouts])
        files.write_json(
            folder / "deme.json",
            {
                **({"sample_size": size} if size is not None else {}),
                "range": _common([about.get("range") for about in abouts]),
                "num_timesteps": _common([about.get("num_timesteps") for about in abouts]),
                "base": _common([about.get("base") for about in abouts]),
                "ema": len(abouts) > 1 or abouts[0].get("ema"),
                "average": models.text,
                "averaged": [
                    {"model": _name(place), "weight": weight}
                    for place, weight in zip(models.folders, models.weights, strict=True)
                ],
                "weights_by_name": models.by_name or None,
            },
        )

    files.write_folder(run.path / FOLDER, fill)
    logger.info("averaged %s: %s", run.path, models.text)


def _common(values: list[T]) -> T | None:
    """Return the value that all models have, None if they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _name(folder: Path) -> str:
    """Return the name of a model among the others: its run, and its snapshot if it is one."""
    parts = folder.parts
    if "weights" not in parts[1:]:
        return folder.name
    index = len(parts) - 1 - parts[::-1].index("weights")
    return "/".join([parts[index - 1], *parts[index + 1 :]])
