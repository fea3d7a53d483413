"""`deme improve`: try several ways to improve a model, and write the best if it is better.

Every step is a run below this run's directory, so a command that was stopped resumes where it was.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deme.commands import stage_function
from deme.commands.arguments import log_without_effect
from deme.commands.compare import mean_value, read_evaluations
from deme.commands.improve_budget import Budget
from deme.commands.improve_power import log_loss_power, log_power, loss_differences
from deme.commands.improve_work import Candidate, Work, decisive_metric
from deme.report.rows import difference_of
from deme.report.run_numbers import judged_table, tried_table
from deme.report.statistics import mean_of, smallest_detectable
from deme.report.tables import difference_cells
from deme.report.terminal import text_table
from deme.runs import (
    BASE_IDEA,
    LOSS_ALONE,
    ImproveSettings,
    Outcome,
    Run,
    build,
    compose_stage,
    ideas_of,
    instantiate,
    read_metrics,
    read_outcome,
    seconds_of,
    weights_folder,
    with_averages,
)
from deme.system import (
    BadConfig,
    below,
    cache_folder,
    digits_for,
    duration,
    expanded,
    files,
    locate,
    logger,
    print_result,
)
from deme.tracking import Mirror

# With 50 held-out images a converged model is called better in 2.4% of simulations (5.5% with
# lognormal losses), with 20 images in 7%, with 200 in 4%; the aim is 2.5%.
MIN_HELD_OUT = 50


def run(config: dict[str, object]) -> Path:
    """Improve unless it is done; return the folder of the improved model, else the run's."""
    config = fitting(config)
    config = with_averages(config, build(ImproveSettings, config))
    settings = build(ImproveSettings, config)
    log_without_effect(settings)
    if not ideas_of(settings):
        raise BadConfig(
            f"ideas=[{','.join(settings.ideas)}] leaves nothing to try with "
            f"num_ranges={settings.num_ranges}\ntype: more ideas, or a larger num_ranges=<n>"
        )
    mirror = Mirror.of(settings.logger)
    planned = Run.planned(config)
    _check_out(settings, planned.state in ("done", "damaged"))
    folder = planned.execute(lambda run: _improve(settings, run))
    outcome = read_outcome(folder)
    _print_outcome(outcome, settings, seconds_of(folder))
    mirror.publish(folder)
    if not outcome["better"]:
        return folder
    out = str(expanded(settings.out))
    model = str(below(folder, outcome["model"]))
    stage_function("export")(compose_stage("export", [], run=model, out=out))
    return Path(out)


def fitting(config: dict[str, object]) -> dict[str, object]:
    """Return the config with the options that fit the model, where none is typed."""
    from deme.models.layout import is_flow, network_folder, read_json_object, scheduler_file

    overrides = config.get("overrides")
    typed = [str(w).lstrip("+") for w in overrides] if isinstance(overrides, list) else []
    model, adapter = config["model"], config.get("adapter")
    path = model.get("path") if isinstance(model, dict) else None
    if not isinstance(path, str) or not (place := locate(path)).is_dir():
        return config  # what is wrong is said later
    folder = weights_folder(place)
    metrics = config["metrics"]
    draws_images = isinstance(metrics, dict) and bool(metrics.get("features"))
    options: dict[str, str] = {}
    if is_flow(read_json_object(scheduler_file(folder))):
        options |= {"sampler": "flow_euler", "weighting": "constant_native"}
    elif (folder / "vae").is_dir():
        options["sampler"] = "ddim_latent"
    if not draws_images:
        options.pop("sampler", None)
    if adapter or network_folder(folder).name == "transformer":
        options["projection"] = "none"
    given = {word.partition("=")[0] for word in typed}
    usual = compose_stage("improve", ["model.path=.", "data.path=.", "out=."])
    words = [
        f"{group}={name}"
        for group, name in options.items()
        if group not in given and _kind(config[group]) == _kind(usual[group])
    ]  # nor chosen in a file of defaults
    if not words:
        return config
    logger.info("chosen for this model: %s; to use others, type them", " ".join(words))
    groups = [word.partition("=")[0] for word in words]
    keys = [word for word in typed if word.partition(".")[0] in groups]
    composed = {**compose_stage("train", _of(words + keys, "weighting", "projection")),
                **compose_stage("evaluate", _of(words + keys, "sampler"))}  # fmt: skip
    return {**config, **{group: composed[group] for group in groups}}


def _kind(option: object) -> object:
    """Return what tells an option of a group from the others."""
    return (option.get("_target_") or option.get("placement")) if isinstance(option, dict) else None


def _of(words: Sequence[str], *groups: str) -> list[str]:
    return [word for word in words if word.partition("=")[0].partition(".")[0] in groups]


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
    from deme.builders import load_data, load_extractors

    work = Work(settings, run)
    budget = Budget(work)
    data = load_data(settings.data, settings.paths, instantiate(settings.model).image_shape)
    # those that learn from the images do so here, outside of what is timed
    load_extractors(settings.metrics, data, cache_folder(settings.paths))
    if not settings.metrics.features:
        logger.info(LOSS_ALONE)
    left_out = [name for name in ("average", "soup") if name in settings.ideas]
    if settings.adapter and left_out:
        logger.info(
            "with adapter=lora these ideas are left out, because they give no LoRA: %s",
            ", ".join(left_out),
        )
    elif "average" in settings.ideas and "average" not in work.ideas:
        logger.info("the idea average is left out: no average of this model is known")
    logger.info("the results are kept in %s; the same command resumes the work", run.path)
    total = len(work.ideas) + 2
    logger.info("1 of %d: measuring %s", total, settings.model["path"])
    evaluations = work.evaluate(BASE_IDEA, None)
    _check_number(evaluations[0], work.chooses)
    log_power(evaluations)
    tried = [work.score_before()]
    candidates: list[Candidate] = []
    num_steps = budget.num_steps(evaluations)
    tried += [work.left_out(idea, why) for idea, why in budget.left_out.items()]
    for number, (idea, what) in enumerate(work.ideas.items(), start=2):
        if idea in budget.left_out:
            continue
        logger.info("%d of %d: %s, %s", number, total, idea, what)
        if candidates and (reason := budget.why_not(idea, num_steps)):
            tried.append(work.left_out(idea, reason))
            continue
        with budget.timed(idea, num_steps):
            found = work.try_idea(idea, num_steps)
        if isinstance(found, Candidate):
            candidates.append(found)
            if len(candidates) == 1:
                log_loss_power(work, idea, evaluations[0])
        tried.append(found.tried if isinstance(found, Candidate) else found)
    if not candidates and work.broken:
        raise next(iter(work.broken.values()))
    idea, model, after = BASE_IDEA, "", evaluations
    if candidates:
        best = min(candidates, key=lambda candidate: candidate.score)
        idea, model = best.tried["idea"], str(best.model.relative_to(run.path))
        logger.info("%d of %d: measuring the chosen idea on test images: %s", total, total, idea)
        after = work.evaluate(idea, best.model, None if idea == "average" else settings.seed)
    measured = read_metrics(after[0])
    metric = decisive_metric(measured)
    outcome = {
        "metric": metric,
        **_compared(metric, evaluations, after, idea not in (BASE_IDEA, "average")),
        "idea": idea,
        "model": model,
        "weights": work.merge_weights if idea == "merge" else None,
        "num_steps": num_steps,
        "num_test_images": measured["loss"]["num_images"],
        "tried": tried,
    }
    files.write_json(run.path / "outcome.json", outcome)


def _check_number(evaluation: Path, is_half: bool) -> None:
    """Raise BadConfig unless there are enough images for a verdict."""
    found = read_metrics(evaluation)["loss"]["num_images"]
    if found >= MIN_HELD_OUT:
        return
    half = " (the other half of the held-out images is used to choose an idea)" if is_half else ""
    raise BadConfig(
        f"{found} held-out images are too few for a verdict; {MIN_HELD_OUT} are needed{half}\n"
        "type: data.held_out_fraction=<larger>, or add images"
    )


def _compared(
    metric: str, before: Sequence[Path], after: Sequence[Path], trained: bool
) -> dict[str, object]:
    """Return whether the metric is better, and for every metric means, difference and verdict."""
    old, new = (read_evaluations(list(map(str, paths))) for paths in (before, after))
    names = [name for name in next(iter(new.values()))["metrics"] if "/" not in name]
    differences = {name: difference_of(name, new, old) for name in names}
    by_images = mean_of(loss_differences(before[0], after[0]))
    differences["loss"] = replace(by_images, num_finetune_seeds=int(trained))
    rows = {}
    for name, found in differences.items():
        mean = mean_value(name, old)
        difference, verdict = difference_cells(found, digits_for(mean))
        rows[name] = {
            "before": mean,
            "after": mean_value(name, new),
            "difference": difference,
            "verdict": verdict,
        }
    decisive = differences[metric]
    better = decisive is not None and decisive.verdict == "better"
    if decisive is None or decisive.spread is None or before == after:
        return {"better": better, "metrics": rows}
    num_seeds = 1 if metric == "loss" else len(new)
    smallest = smallest_detectable(decisive.spread.sampling, num_seeds, 0.0, 1)
    return {"better": better, "metrics": rows, "detectable": smallest}


def _print_outcome(outcome: Outcome, settings: ImproveSettings, seconds: float) -> None:
    metric, idea, weights = outcome["metric"], outcome["idea"], outcome["weights"]
    tried = tried_table(outcome)
    print_result(text_table(*tried._replace(title=f"{tried.title} in {duration(seconds)}")))
    print_result(text_table(*judged_table(outcome)))
    if any("(1 seed)" in row["verdict"] for row in outcome["metrics"].values()):
        print_result("1 seed: the verdict is about these weights; another seed gives other weights")
    what = f"{idea} (merge weights {weights})" if weights else idea
    if outcome["better"]:
        print_result(f"the idea {what} is better in {metric}: the 95% interval excludes 0")
        if metric == "loss":
            print_result(
                "a lower loss does not mean better images: metrics=own compares generated images"
            )
        return
    scores = {each["idea"]: each["score"] for each in outcome["tried"]}
    given, chosen = scores[BASE_IDEA], scores[idea]
    if given is not None and chosen is not None and idea != BASE_IDEA and chosen >= given:
        print_result("no idea is better than the base on validation images")
    for note in filter(None, (each.get("note") for each in outcome["tried"])):
        print_result(note)
    if idea != BASE_IDEA:
        print_result(f"the idea {what} is not better in {metric} by its 95% interval")
    if (smallest := outcome.get("detectable")) is not None:
        print_result(f"an improvement by {smallest:.2g} would have been detected with 80% power")
    print_result(
        f"the folder {settings.out} was not written\n"
        "more images, more steps (hours=<n>) or a different lr=<n> may help"
    )
