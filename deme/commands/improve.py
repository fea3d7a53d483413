"""`deme improve`: finetune and merge a checkpoint; the result is written only if it is better.

Every step is a run below this run's directory, so a command that was stopped resumes where it was.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, variance

from deme.commands import stage_function
from deme.commands.compare import mean_value, read_evaluations
from deme.report.rows import table_rows
from deme.report.statistics import Difference, digits_for, mean_of, smallest_detectable
from deme.report.tables import difference_cells
from deme.runs import (
    CHAIN,
    IMPROVE_SEARCH_SEED,
    Best,
    ImproveSettings,
    Metrics,
    Outcome,
    RowSettings,
    Run,
    Suite,
    SuiteSettings,
    TrialPlan,
    build,
    compose_stage,
    frozen_config,
    read_status,
)
from deme.system import BadConfig, below, expanded, files, logger, print_result, read_json

# Keys that every step of the work shares, if its command has them.
SHARED_KEYS = (
    "data", "model", "metrics", "projection", "prompts", "sampler", "compute", "progress", "logger",
    "passport", "guidance_scale", "paths",
)  # fmt: skip
MAX_STEPS = 20_000  # optimizer steps of an expert, as in the paper
MIN_STEPS = 20
# With 50 held-out images a converged model is called better in 2.4% of simulations (5.5% with
# lognormal losses), with 20 images in 7%, with 200 in 4%; the aim is 2.5%.
MIN_HELD_OUT = 50
# Optimizer steps of trial runs: the first warms up caches, the others measure the time of a step.
TRIAL_STEPS = (1, 10, 60)
PASSES_PER_STEP = 4  # forward passes per image: forward, backward (as two), and the teacher's
SEARCH_STEPS = 10  # sampling steps of a candidate's images


def run(config: dict[str, object]) -> Path:
    """Improve unless it is done; return the folder of the improved model, else the run's."""
    settings = build(ImproveSettings, config)
    planned = Run.planned(config)
    _check_out(settings, planned.state in ("done", "damaged"))
    folder = planned.execute(lambda run: _improve(settings, run))
    outcome = read_json(folder / "outcome.json", Outcome)
    _print_outcome(outcome, settings)
    if not outcome["better"]:
        return folder
    out = str(expanded(settings.out))
    merged = str(below(folder, outcome["merged"]))
    stage_function("export")(compose_stage("export", [], run=merged, out=out))
    return Path(out)


def _check_out(settings: ImproveSettings, was_done: bool) -> None:
    """Raise BadConfig, before hours of work, if `out` cannot be written or holds other files.

    `was_done`: an earlier command may have written it.
    """
    out = expanded(settings.out).resolve()
    for name, option in (("model", settings.model), ("data", settings.data)):
        if not isinstance(option.get("path"), str):
            continue
        place = expanded(option["path"]).resolve()
        if place.is_relative_to(out) or out.is_relative_to(place):
            raise BadConfig(
                f"out={settings.out} and {name}.path={option['path']} contain each other\n"
                "type: out=<a folder of its own>"
            )
    if out.exists() and not (out.is_dir() and (was_done or not any(out.iterdir()))):
        raise BadConfig(
            f"out={settings.out} exists, and its files would be lost\ntype: out=<another folder>"
        )


def _improve(settings: ImproveSettings, run: Run) -> None:
    if not settings.metrics.features:
        logger.info(
            "only the held-out denoising loss judges, which need not agree with how images look; "
            "to judge images, type: metrics=fid_pytorch metrics.path=<Inception weights>"
        )
    evaluate = (f"num_images={settings.num_images}", f"batch_size={settings.batch_size}")
    before = RowSettings(name="before", label="before", evaluate=evaluate)
    logger.info("1 of 5: evaluating %s", settings.model["path"])
    evaluations = _made(_suite(settings, run, before), "evaluate")
    measured = read_json(evaluations[0] / "metrics.json", Metrics)["metrics"]
    if (num_images := measured["loss"]["num_images"]) < MIN_HELD_OUT:
        raise BadConfig(
            f"{num_images} held-out images are too few for a verdict; {MIN_HELD_OUT} are needed\n"
            "type: data.held_out_fraction=<larger>, or add images"
        )
    metric = next((name for name in measured if name.startswith(("fd_", "fid_"))), "loss")
    _log_power(metric, evaluations)
    num_steps = _num_steps(settings, run, evaluations)
    experts = _experts("deme", settings, num_steps, range(settings.num_ranges))
    search = (
        f"num_images={settings.search.num_images}",
        f"search.step={settings.search.step}",
        f"sample_seed={IMPROVE_SEARCH_SEED}",
        f"batch_size={settings.batch_size}",
        "inputs.experts=null",
    )
    merged = RowSettings(
        name="merged",
        label="merged",
        experts_of=experts.name,
        search=search,
        merge=("inputs.experts=null",),
        evaluate=evaluate,
    )
    suite = _suite(settings, run, before, experts, merged, metrics=measured)
    logger.info("2 of 5: training %d experts, %d steps each", settings.num_ranges, num_steps)
    _made(suite, "train")
    logger.info("3 of 5: searching merge weights on training images")
    (searched,) = _made(suite, "search")
    logger.info("4 of 5: merging")
    (model,) = _made(suite, "merge")
    logger.info("5 of 5: evaluating the merged model")
    _made(suite, "evaluate")
    outcome = {
        "metric": metric,
        **_outcome(metric, suite),
        "merged": str(model.relative_to(run.path)),
        "weights": read_json(searched / "best.json", Best)["weights"],
        "num_steps": num_steps,
    }
    files.write_json(run.path / "outcome.json", outcome)


def _suite(
    settings: ImproveSettings, run: Run, *rows: RowSettings, metrics: Iterable[str] = ("loss",)
) -> Suite:
    """Return a suite of these rows below this run's directory, with its model, data and others."""
    shared = {key: run.config[key] for key in SHARED_KEYS}
    # held-out images judge; a statistics file may be of other images
    shared["metrics"] = {**shared["metrics"], "reference": "held_out", "statistics": {}}
    steps = min(SEARCH_STEPS, settings.sampler.get("num_inference_steps", SEARCH_STEPS))
    search = {**shared, "sampler": {**shared["sampler"], "num_inference_steps": steps}}
    suite = SuiteSettings(
        suite="improve",
        rows=rows,
        baseline="before",
        metrics=tuple(name for name in metrics if "/" not in name),
        finetune_seeds=(settings.seed,),
        # the loss does not depend on the sampling seed
        sample_seeds=tuple(settings.sample_seeds[: None if settings.metrics.features else 1]),
    )
    values = {**dict.fromkeys(CHAIN, shared), "search": search}
    return Suite(run.path / "config.yaml", run.path / "runs", suite, replaced=values)


def _made(suite: Suite, stage: str) -> list[Path]:
    """Make the runs of a stage, whose inputs are done; return their directories."""
    runs = [node.run for node in suite.nodes if node.stage == stage]
    return [stage_function(stage)(run.config) for run in runs if run is not None]


def _experts(
    name: str, settings: ImproveSettings, num_steps: int, experts: Iterable[int]
) -> RowSettings:
    train = (
        "method=deme",
        f"ranges.num_ranges={settings.num_ranges}",
        f"num_steps={num_steps}",
        f"batch_size={settings.batch_size}",
        f"optimizer.lr={settings.lr}",
        f"cell.method={name}",
    )
    return RowSettings(name=name, label=name, train=train, experts=tuple(experts))


def _log_power(metric: str, evaluations: Sequence[Path]) -> None:
    """Log which improvement of the metric is found with 80% power."""
    found = read_evaluations(list(map(str, evaluations)))
    mean = mean_value(metric, found)
    noise = fmean(variance(result["replicates"][metric]) for result in found.values())
    smallest = smallest_detectable((2 * noise) ** 0.5, len(found), 0.0, 1) if noise else 0.0
    logger.info(
        f"{metric} of the input: {mean:.{digits_for(mean)}f}; an improvement by {smallest:.2g} "
        f"({smallest / abs(mean or 1):.0%}) is detected with 80% power, a smaller one if the "
        "errors of the two models on the same noise are correlated"
    )


def _num_steps(settings: ImproveSettings, run: Run, evaluations: Sequence[Path]) -> int:
    """Return the optimizer steps of an expert; those that fit into `hours` are kept in
    plan.json."""
    if settings.steps_per_expert is not None or settings.hours is None:
        return settings.steps_per_expert or MAX_STEPS
    file = run.path / "plan.json"
    trials = (_suite(settings, run, _experts("trial", settings, n, [0])) for n in TRIAL_STEPS)
    first, short, long = (_seconds(_made(trial, "train")[0]) for trial in trials)
    if not file.exists():
        _, few, many = TRIAL_STEPS
        per_step = max((long - short) / (many - few), short / many / 4)
        evaluation = sum(map(_seconds, evaluations))
        spent = evaluation + first + short + long
        rest = spent + evaluation + _search_seconds(settings, evaluations[0], per_step)
        steps = int(0.9 * (3600 * settings.hours - rest) / per_step / settings.num_ranges)
        files.write_json(
            file,
            {
                "seconds_per_step": per_step,
                "seconds_for_the_rest": rest,
                "num_steps": min(MAX_STEPS, steps),
            },
        )
    plan = read_json(file, TrialPlan)
    if plan["num_steps"] < MIN_STEPS:
        raise BadConfig(
            f"hours={settings.hours} leaves time for {max(0, plan['num_steps'])} steps per expert; "
            f"evaluations and search take {plan['seconds_for_the_rest'] / 3600:.2f} hours, "
            f"a step {plan['seconds_per_step']:.2g} s\ntype: a larger hours=<n>"
        )
    logger.info(
        f"{plan['num_steps']:,} steps per expert fit into {settings.hours} hours "
        f"({plan['seconds_per_step']:.2g} s per step)"
    )
    return int(plan["num_steps"])


def _seconds(run: Path) -> float:
    return read_status(run).get("seconds", 0.0)


def _search_seconds(settings: ImproveSettings, evaluation: Path, per_step: float) -> float:
    """Return the most that the search can take.

    Images are generated at the pace of the evaluation, losses computed at that of training.
    """
    num_candidates = (round(1 / settings.search.step) + 1) ** settings.num_ranges
    images, evaluated = settings.search.num_images, frozen_config(evaluation)
    if not settings.metrics.features:
        passes = num_candidates * images * evaluated["metrics"]["loss"]["num_ranges"]
        return float(passes * per_step / (PASSES_PER_STEP * settings.batch_size))
    steps = evaluated["sampler"].get("num_inference_steps", 1)
    share = images * min(SEARCH_STEPS, steps) / (settings.num_images * steps)
    return num_candidates * share * _seconds(evaluation)


def _outcome(metric: str, suite: Suite) -> dict[str, object]:
    """Return whether the metric is better, and for every metric the means, difference and
    verdict."""
    before, after = table_rows(suite)
    old, new = (suite.evaluations(row.name)[0].path for row in (before, after))
    differences = {name: number.difference for name, number in after.numbers.items()}
    differences["loss"] = _loss_difference(old, new)
    rows = {}
    for name, found in differences.items():
        mean = before.numbers[name].mean
        difference, verdict = difference_cells(found, digits_for(mean))
        rows[name] = {
            "before": mean,
            "after": after.numbers[name].mean,
            "difference": difference,
            "verdict": verdict,
        }
    decisive = differences[metric]
    return {"better": decisive is not None and decisive.verdict == "better", "metrics": rows}


def _loss_difference(before: Path, after: Path) -> Difference:
    """Compare losses image by image: both models see the same images, timesteps and noise."""
    from deme.system.tensors import TensorFile

    new, old = (
        TensorFile(path / "moments" / "loss.safetensors").read("loss") for path in (after, before)
    )
    return mean_of((new - old).tolist())


def _print_outcome(outcome: Outcome, settings: ImproveSettings) -> None:
    for name, row in outcome["metrics"].items():
        places = digits_for(row["before"])
        line = f"{name}: {row['before']:.{places}f} before, {row['after']:.{places}f} after"
        parts = [line, f"{row['difference']} {row['verdict']}".strip()]
        print_result(", ".join(part for part in parts if part))
    if outcome["better"]:
        print_result(
            f"better in {outcome['metric']} beyond its interval "
            f"(merge weights {outcome['weights']})"
        )
    else:
        print_result(
            f"not better in {outcome['metric']} beyond its interval: {settings.out} was not "
            "written; more images, more steps or another lr= may help"
        )
