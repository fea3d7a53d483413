"""`deme improve`: a better checkpoint from a checkpoint and a folder of images, written only if it is better.

Each step is a run of its own below this run's directory, so that the same command goes on where it was stopped.
"""

from pathlib import Path
from typing import Any

from deme.commands import stage_function
from deme.commands.compare import difference_of, read_evaluations
from deme.report.numbers import digits_for
from deme.report.statistics import Difference, mean_of, smallest_detectable
from deme.report.tables import difference_cells
from deme.runs.config import compose_stage, extractor_specs
from deme.runs.inputs import load_yaml, read_status
from deme.runs.run import Run, say
from deme.runs.settings.base import build
from deme.runs.settings.commands import ImproveSettings
from deme.system import files
from deme.system.errors import BadConfig

GROUPS = (
    "data",
    "model",
    "metrics",
    "projection",
    "prompts",
    "sampler",
    "compute",
    "progress",
    "logger",
    "passport",
)
MAX_STEPS = 20_000  # the paper's
MIN_STEPS = 20
MIN_HELD_OUT = 50  # false "better", simulated: 2.4%; 5.5% for lognormal losses (7% at 20 images, 4% at 200; wanted: 2.5%)
TRIAL = (
    1,
    10,
    60,
)  # optimizer steps of runs: one that pays for what only a first run does, two that tell the seconds of a step
SEARCH_SEED = 7_000_000
FORWARDS_PER_STEP = 4  # of an image: forward, backward (counts as two), and the teacher's
SEARCH_STEPS = 10  # sampling steps of a candidate's images


def run(config: dict[str, Any]) -> Path:
    """Improve unless it is done; return the folder of the improved model, or the run's if there is none."""
    _check(config)
    planned = Run.planned(config)
    _check_out(config, planned.done)
    folder = planned.execute(_improve)
    outcome = files.read_json(folder / "outcome.json")
    _tell(outcome, config)
    if not outcome["better"]:
        return folder
    out = Path(str(config["out"])).expanduser()
    export = {
        **compose_stage("export", ["run=here", "out=there"]),
        "run": outcome["merged"],
        "out": str(out),
    }
    stage_function("export")(export)
    return out


def _check(config: dict[str, Any]) -> None:
    build(ImproveSettings, config)
    if not isinstance(config["metrics"]["loss"], dict):
        raise BadConfig(
            "deme improve measures the held-out loss\ntype: leave out metrics.loss=null"
        )
    seeds = config["sample_seeds"]
    if not seeds or max(seeds) >= SEARCH_SEED:
        raise BadConfig(
            f"sample_seeds must be a list of whole numbers below {SEARCH_SEED}, got {seeds!r}"
        )
    if len(set(seeds)) < len(seeds):
        raise BadConfig(f"sample_seeds={seeds} names a seed twice")
    if config["projection"]["placement"] not in (None, "foldable"):
        raise BadConfig(
            "deme improve writes a stock checkpoint, which projection=blocks cannot be\ntype: projection=foldable"
        )
    if len(extractor_specs(config["metrics"])) > 1:
        raise BadConfig(
            "one distance judges, and metrics.features names several\ntype: metrics=fid_pytorch, or another of one"
        )
    if config["hours"] is not None and config["steps_per_expert"] is not None:
        raise BadConfig(
            "steps_per_expert follows from hours\ntype: one of hours=<n>, steps_per_expert=<n>"
        )
    if not config["model"].get("path"):
        raise BadConfig(
            "deme improve starts from a model on disk\ntype: model=<folder or hub:owner/name>"
        )


def _check_out(config: dict[str, Any], done: bool) -> None:
    """Before hours of work: is `out` a folder that can be written, and none that the work reads? `done`: it may have been written."""
    out = Path(config["out"]).expanduser().resolve()
    for group in ("model", "data"):
        given = config[group].get("path")
        place = Path(given).expanduser().resolve() if isinstance(given, str) else None
        if place is not None and (place == out or place in out.parents or out in place.parents):
            raise BadConfig(
                f"out={config['out']} and {group}.path={given} lie in each other\ntype: out=<a folder of its own>"
            )
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or done)):
        raise BadConfig(
            f"out={config['out']} is there, and what it holds would be lost\ntype: out=<another folder>"
        )


def _improve(run: Run) -> None:
    config = run.config
    seeds = (
        config["sample_seeds"] if extractor_specs(config["metrics"]) else config["sample_seeds"][:1]
    )  # no images
    say(f"1 of 5: measuring {config['model']['path']}")
    before = [_evaluate(run, seed) for seed in seeds]
    metric = _judge(config, before[0])
    _check_enough(before[0])
    _tell_power(run, metric, before)
    num_steps = _num_steps(run, before)
    say(
        f"2 of 5: {config['num_ranges']} experts, {num_steps:,} steps of {config['batch_size']} images each"
    )
    experts = [str(_train(run, expert, num_steps)) for expert in range(config["num_ranges"])]
    say(
        "3 of 5: looking for merge weights, on training images and with seeds that no evaluation uses"
    )
    search = _search(run, experts)
    say("4 of 5: merging")
    merged = _stage(run, "merge", [], inputs={"experts": experts, "search": str(search)})
    say("5 of 5: measuring the merged model")
    after = [_evaluate(run, seed, merged) for seed in seeds]
    outcome = {
        "metric": metric,
        **_outcome(metric, before, after),
        "merged": str(merged.resolve()),
        "weights": files.read_json(search / "best.json")["weights"],
        "num_steps": num_steps,
    }
    files.write_json(run.path / "outcome.json", outcome)


def _check_enough(evaluation: Path) -> None:
    """Intervals are too narrow on few images, and a verdict would be a guess."""
    count = files.read_json(evaluation / "metrics.json")["metrics"]["loss"]["num_images"]
    if count < MIN_HELD_OUT:
        raise BadConfig(
            f"{count} images are held out, too few for an honest verdict; {MIN_HELD_OUT} are needed\n"
            "type: data.held_out_fraction=<larger>, or give more images"
        )


def _stage(run: Run, stage: str, words: list[str], **more: Any) -> Path:
    """Run a stage below this run's directory, with this run's model, data, metrics and the like."""
    words = [
        *words,
        *(["inputs.experts=[]"] if "experts" in more.get("inputs", {}) else []),
    ]  # without a default
    config = compose_stage(stage, words)
    shared = {group: run.config[group] for group in GROUPS if group in config}
    if "metrics" in shared:  # held-out images judge; a statistics file may be of others
        shared["metrics"] = {**shared["metrics"], "reference": "held_out", "statistics": {}}
    paths = {**run.config["paths"], "runs": str(run.path / "runs")}
    shared |= {"guidance_scale": run.config["guidance_scale"]} if "guidance_scale" in config else {}
    settings = {**config, **shared, "suite": "improve", "paths": paths}
    settings |= {
        key: {**settings[key], **value} if isinstance(value, dict) else value
        for key, value in more.items()
    }
    return stage_function(stage)(settings)


def _evaluate(run: Run, sample_seed: int, weights: Path | None = None) -> Path:
    words = [
        f"num_images={run.config['num_images']}",
        f"sample_seed={sample_seed}",
        f"batch_size={run.config['batch_size']}",
    ]
    seed = None if weights is None else run.config["seed"]
    inputs = {"weights": None if weights is None else str(weights)}
    return _stage(
        run,
        "evaluate",
        [*words, f"cell.method={'before' if weights is None else 'merged'}"],
        inputs=inputs,
        seed=seed,
    )


def _train(run: Run, expert: int, num_steps: int, method: str = "deme") -> Path:
    config = run.config
    words = [
        "method=deme",
        f"expert={expert}",
        f"ranges.num_ranges={config['num_ranges']}",
        f"num_steps={num_steps}",
    ]
    words += [
        f"batch_size={config['batch_size']}",
        f"optimizer.lr={config['lr']}",
        f"seed={config['seed']}",
    ]
    return _stage(run, "train", [*words, f"cell.method={method}"])


def _search(run: Run, experts: list[str]) -> Path:
    config, settings = run.config, run.config["search"]
    steps = min(SEARCH_STEPS, config["sampler"].get("num_inference_steps", SEARCH_STEPS))
    words = [
        f"num_images={settings['num_images']}",
        f"search.step={settings['step']}",
        f"sample_seed={SEARCH_SEED}",
    ]
    words += [f"batch_size={config['batch_size']}", f"seed={config['seed']}"]
    sampler = {"num_inference_steps": steps}
    return _stage(run, "search", words, inputs={"experts": experts}, sampler=sampler)


def _judge(config: dict[str, Any], evaluation: Path) -> str:
    """The metric that decides: the first distance between images, or the held-out loss."""
    names = files.read_json(evaluation / "metrics.json")["metrics"]
    distances = [name for name in names if name.startswith(("fd_", "fid_"))]
    if not extractor_specs(config["metrics"]):
        say(
            "the held-out denoising loss alone will judge, which need not agree with how images look; to judge images, too: "
            "metrics=fid_pytorch metrics.path=<Inception weights>"
        )
    return distances[0] if distances else "loss"


def _tell_power(run: Run, metric: str, evaluations: list[Path]) -> None:
    values = [
        files.read_json(place / "metrics.json")["metrics"][metric]["value"] for place in evaluations
    ]
    spreads = [files.read_json(place / "replicates.json")[metric] for place in evaluations]
    mean = sum(values) / len(values)
    variance = sum(
        sum((r - sum(s) / len(s)) ** 2 for r in s) / (len(s) - 1) for s in spreads
    ) / len(spreads)
    smallest = (
        smallest_detectable((2 * variance) ** 0.5, len(values), 0.0, 1) if variance > 0 else 0.0
    )
    share = smallest / abs(mean or 1)
    run.log(
        f"{metric} of the input: {mean:.{digits_for(mean)}f}; an improvement by {smallest:.2g} ({share:.0%}) is found with 80% power, "
        "a smaller one if the two models err alike on the same noise"
    )


def _num_steps(run: Run, evaluations: list[Path]) -> int:
    """The steps of an expert, kept in plan.json: a resumed run does not plan anew."""
    config, place = run.config, run.path / "plan.json"
    if config["steps_per_expert"] is not None or config["hours"] is None:
        return int(config["steps_per_expert"] or MAX_STEPS)
    if not place.exists():
        began = [read_status(_train(run, 0, steps, "trial"))["seconds"] for steps in TRIAL]
        _, few, many = TRIAL
        per_step = max((began[2] - began[1]) / (many - few), began[2] / many / 4)
        evaluation = sum(read_status(path)["seconds"] for path in evaluations)
        spent = evaluation + sum(began)
        later = evaluation + _search_seconds(run, evaluations, per_step)
        left = 0.9 * (3600 * config["hours"] - spent - later)
        steps = min(MAX_STEPS, int(left / per_step / config["num_ranges"]))
        plan = {
            "seconds_per_step": per_step,
            "seconds_for_the_rest": spent + later,
            "num_steps": steps,
        }
        files.write_json(place, plan)
    plan = files.read_json(place)
    if plan["num_steps"] < MIN_STEPS:
        raise BadConfig(
            f"hours={config['hours']} leaves time for {max(0, plan['num_steps'])} steps an expert; evaluations and search take "
            f"{plan['seconds_for_the_rest'] / 3600:.2f} hours, a step {plan['seconds_per_step']:.2g} s\ntype: a larger hours=<n>"
        )
    run.log(
        f"{plan['num_steps']:,} steps an expert fit into {config['hours']} hours ({plan['seconds_per_step']:.2g} s a step)"
    )
    return int(plan["num_steps"])


def _search_seconds(run: Run, evaluations: list[Path], per_step: float) -> float:
    """What the search will take at the most: of generated images at the pace of the evaluations, of losses at that of training."""
    config = run.config
    candidates = (round(1 / config["search"]["step"]) + 1) ** config["num_ranges"]
    evaluated = load_yaml(evaluations[0] / "config.yaml")
    images, steps = config["num_images"], evaluated["sampler"].get("num_inference_steps", 1)
    if not extractor_specs(config["metrics"]):
        passes = (
            candidates * config["search"]["num_images"] * evaluated["metrics"]["loss"]["num_ranges"]
        )
        return passes * per_step / (FORWARDS_PER_STEP * config["batch_size"])
    share = config["search"]["num_images"] * min(SEARCH_STEPS, steps) / (images * steps)
    return candidates * share * float(read_status(evaluations[0])["seconds"])


def _outcome(metric: str, before: list[Path], after: list[Path]) -> dict[str, Any]:
    one, other = read_evaluations(list(map(str, after))), read_evaluations(list(map(str, before)))
    rows, differences = {}, {}
    for name in next(iter(one.values()))["metrics"]:
        differences[name] = (
            difference_of(name, one, other)
            if name != "loss"
            else _loss_difference(before[0], after[0])
        )
        means = [
            sum(r["metrics"][name]["value"] for r in found.values()) / len(found)
            for found in (other, one)
        ]
        told = difference_cells(differences[name], digits_for(means[0]))
        rows[name] = {
            "before": means[0],
            "after": means[1],
            "difference": told[0],
            "verdict": told[1],
        }
    decided = differences[metric]
    return {"better": decided is not None and decided.verdict == "better", "metrics": rows}


def _loss_difference(before: Path, after: Path) -> Difference:
    """The same images, timesteps and noise for both models: image by image, and mindful of rare large losses."""
    from deme.system import tensors

    one, other = (
        tensors.TensorFile(place / "moments" / "loss.safetensors").read("loss")
        for place in (after, before)
    )
    return mean_of((one - other).tolist())


def _tell(outcome: dict[str, Any], config: dict[str, Any]) -> None:
    for name, row in outcome["metrics"].items():
        places = digits_for(row["before"])
        said = f"{row['difference']} {row['verdict']}".strip()
        say(
            f"  {name}: {row['before']:.{places}f} before, {row['after']:.{places}f} after{', ' if said else ''}{said}"
        )
    if outcome["better"]:
        say(
            f"better in {outcome['metric']} beyond its interval (merge weights {outcome['weights']})"
        )
    else:
        say(
            f"no harm done: the merged model is not better than the input in {outcome['metric']} beyond its interval, so {config['out']} "
            "was not written; more images, more steps or another lr= may tell more"
        )
