"""The ideas that `deme improve` tries, each as rows of a suite that make one model."""

from collections.abc import Collection, Mapping
from pathlib import Path

from deme.runs.run_files import is_run
from deme.runs.settings import (
    BACKWARD,
    IMPROVE_SEARCH_SEED,
    Config,
    ImproveSettings,
    RowSettings,
)
from deme.runs.weights import find_snapshots
from deme.system import EMA_WEIGHTS, RAW_WEIGHTS, SNAPSHOTS, BadConfig, model_folders

BASE_IDEA = "before"  # the name of the base, among the names of the ideas
EXPERTS = "deme"  # the row whose experts are merged, and distilled
TRAINING = 1 + BACKWARD  # forward passes per image of a training step; a teacher takes another


def averages_of(model: Mapping[str, object]) -> dict[str, str]:
    """Return the inputs of `deme improve` that hold averages of a raw model: of the run it is of.

    These are {"average": <folder>}, {"snapshots_of": <run>} where the run has no average, or
    nothing for a model that is not the raw weights of a run.
    """
    place = model.get("path")
    if not isinstance(place, str) or ":" in place:
        return {}
    folder = Path(place).expanduser()
    if is_run(folder):
        run, kinds = folder, [each.name for each in model_folders(folder)]
        raw = kinds == [RAW_WEIGHTS]
    else:
        run, raw = folder.parent.parent, folder.name == RAW_WEIGHTS
        raw = raw and folder.parent.name == "weights" and is_run(run)
    if not raw:
        return {}
    if (average := run / "weights" / EMA_WEIGHTS).is_dir():
        return {"average": str(average)}
    several = (run / "weights" / SNAPSHOTS).is_dir() and len(find_snapshots(run)) > 1
    return {"snapshots_of": str(run)} if several else {}


def with_averages(config: Config, settings: ImproveSettings) -> Config:
    """Return a config of `deme improve` in which the average of its model is an input.

    Raises BadConfig if an average is the only idea, and there is none.
    """
    inputs = {name: value for name, value in settings.inputs.items() if value}
    if "average" in settings.ideas and not inputs and not settings.adapter:
        inputs = averages_of(settings.model)
        if not inputs and settings.ideas == ["average"]:
            raise BadConfig(
                f"ideas=[average], and {settings.model['path']} is not the raw weights of a run "
                "that has an average or several snapshots\n"
                "type: inputs.average=<model>, or further ideas"
            )
    return {**config, "inputs": {**dict.fromkeys(settings.inputs), **inputs}}


def ideas_of(settings: ImproveSettings) -> dict[str, str]:
    """Return the ideas that can be tried, in order, with what each is called."""
    number, inputs = settings.num_ranges, settings.inputs
    what = {
        "average": "the averaged weights" if inputs.get("average") else "the mean of the snapshots",
        "finetune": "continued finetuning",
        "soup": f"the average of {number} finetunings",
        "merge": f"{number} experts, merged",
        "distill": f"{number} experts, distilled",
    }
    possible = {
        "average": any(inputs.values()) and not settings.adapter,
        # of one, it is continued finetuning; of LoRAs, it is no LoRA
        "soup": number > 1 and not settings.adapter,
    }
    return {name: what[name] for name in settings.ideas if possible.get(name, True)}


def idea_rows(settings: ImproveSettings, num_steps: int) -> dict[str, tuple[RowSettings, ...]]:
    """Return the rows of each idea that trains, in the order in which they are made.

    Each trains for N x `num_steps` steps, where N = `num_ranges`, not counting the experts, which
    `merge` and `distill` share.
    """
    whole = settings.num_ranges * num_steps
    experts = expert_row(EXPERTS, settings, num_steps, tuple(range(settings.num_ranges)))
    search = (
        f"num_images={settings.search.num_images}",
        f"search.step={settings.search.step}",
        f"sample_seed={IMPROVE_SEARCH_SEED}",
        f"batch_size={settings.batch_size}",
        "inputs.experts=null",
    )
    merged = _row("merge", experts_of=EXPERTS, search=search, merge=("inputs.experts=null",))
    distilled = _row(
        "distill",
        experts_of=EXPERTS,
        train=("inputs.experts=null", *_training("distill", "distill", settings, whole)),
    )
    return {
        "finetune": (_row("finetune", train=_training("finetune", "finetune", settings, whole)),),
        "soup": (
            _row(
                "soup",
                train=_training("soup", "finetune", settings, num_steps),
                copies=settings.num_ranges if settings.num_ranges > 1 else None,
                average=("average=mean", "inputs.run=null"),
            ),
        ),
        "merge": (experts, merged),
        "distill": (experts, distilled),
    }


def expert_row(
    name: str, settings: ImproveSettings, num_steps: int, experts: tuple[int, ...]
) -> RowSettings:
    """Return a row that trains experts for `num_steps` steps each."""
    train = (
        *_training(name, "deme", settings, num_steps),
        f"ranges.num_ranges={settings.num_ranges}",
        f"method.consistency_weight={settings.consistency_weight}",
    )
    return _row(name, train=train, experts=experts)


def passes_per_step(
    settings: ImproveSettings, ideas: Collection[str] | None = None
) -> dict[str, int]:
    """Return the forward passes per image of a training step, for everything that is trained.

    `ideas`: None for all that can be tried. The key `experts` stands for the experts of the ideas
    `merge` and `distill`. A backward pass counts as two forward passes.
    """
    ideas = ideas_of(settings) if ideas is None else ideas
    found: dict[str, int] = {name: TRAINING for name in ("finetune", "soup") if name in ideas}
    if {"merge", "distill"} & {*ideas}:
        found["experts"] = passes_of_an_expert(settings)
    return found | ({"distill": TRAINING + 1} if "distill" in ideas else {})


def num_trainings(settings: ImproveSettings, ideas: Collection[str]) -> int:
    """Return the number of trainings of some ideas, each of which starts from a model."""
    several = {"soup": settings.num_ranges, "experts": settings.num_ranges}
    return sum(several.get(name, 1) for name in passes_per_step(settings, ideas))


def passes_of_an_expert(settings: ImproveSettings) -> int:
    """Return the forward passes per image of an expert's training step."""
    return TRAINING + bool(settings.consistency_weight)


def _row(name: str, **stages: object) -> RowSettings:
    return RowSettings(name=name, label=name, **stages)  # type: ignore[arg-type]


def _training(name: str, method: str, settings: ImproveSettings, num_steps: int) -> tuple[str, ...]:
    return (
        f"method={method}",
        f"num_steps={num_steps}",
        f"batch_size={settings.batch_size}",
        f"optimizer.lr={settings.lr}",
        f"cell.method={name}",
    )
