"""`deme evaluate`: exactly n images from a seed, their distance to real images, and the held-out denoising loss."""

from pathlib import Path
from typing import Any

from deme.runs.checks import check_scale, check_values
from deme.runs.config import extractor_specs, score_specs
from deme.runs.run import Run
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings
from deme.system import files
from deme.system.errors import BadConfig

SOURCES = ("weights", "experts", "images", "real")
LOGGER_MODES = ("disabled", "offline", "online")


def run(config: dict[str, Any]) -> Path:
    """Evaluate unless it is done; return the run directory. If another process is at it, make images with it."""
    _check(config)
    return Run.planned(config).execute(_evaluate, helper=_help)


def _check(config: dict[str, Any]) -> None:
    check_values(config)
    metrics, extractors = config["metrics"], extractor_specs(config["metrics"])
    check_scale(config)
    if metrics["loss"] is None and not extractors and not score_specs(metrics):
        raise BadConfig(
            "nothing is measured: metrics has neither a loss nor features nor scores\ntype: metrics=<option>"
        )
    if config["logger"]["mode"] not in LOGGER_MODES:
        raise BadConfig(
            f"logger.mode must be one of {', '.join(LOGGER_MODES)}, got {config['logger']['mode']!r}"
        )
    if config["source"] not in SOURCES:
        raise BadConfig(f"source must be one of {', '.join(SOURCES)}, got {config['source']!r}")
    for source in ("experts", "images"):
        if (config["source"] == source) != bool(config["inputs"][source]):
            given = "[<run>,...]" if source == "experts" else "<folder>"
            raise BadConfig(f"source={source} and inputs.{source}={given} go together")
    if config["inputs"]["weights"] and config["source"] != "weights":
        raise BadConfig(
            f"source={config['source']} does not look at inputs.weights\ntype: source=weights, or leave it out"
        )
    if config["source"] in ("real", "images") and not extractors:
        raise BadConfig(
            f"source={config['source']} compares images and needs a feature extractor; metrics.features is empty"
        )
    if extractors:
        least = 2 if metrics["nearest_k"] is None else metrics["nearest_k"] + 2
        if config["num_images"] < least:
            raise BadConfig(
                f"these metrics need at least {least} images, num_images={config['num_images']} were asked for"
            )
    if config["save_images"] not in (None, "png", "zip"):
        raise BadConfig(f"save_images must be null, png or zip, got {config['save_images']!r}")


def _help(run: Run) -> None:
    from deme.evaluation.images import help_with

    metrics = run.config["metrics"]
    if extractor_specs(metrics) or score_specs(metrics) or run.config["save_images"]:
        help_with(run)


def _evaluate(run: Run) -> None:
    from deme.evaluation.images import clear

    if not (
        run.path / "metrics.json"
    ).exists():  # written last: a former process may have stopped after it
        _measure(run)
    metrics = files.read_json(run.path / "metrics.json")["metrics"]
    if run.config["logger"]["mode"] != "disabled":
        from deme.runs import tracking

        tracker = tracking.start(
            run.path, run.config["suite"], "evaluate", run.config["cell"], **run.config["logger"]
        )
        grid = run.path / "samples" / "grid.png"
        tracking.finish(
            tracker, {k: m["value"] for k, m in metrics.items()}, grid if grid.exists() else None
        )
    run.log(f"evaluated {run.path}: {summary(metrics)}")
    clear(run)


def _measure(run: Run) -> None:
    from deme.builders.compute import Compute
    from deme.evaluation.measure import measure

    metrics, replicates = measure(run, Compute.of(build(ComputeSettings, run.config["compute"])))
    files.write_json(run.path / "replicates.json", replicates)
    files.write_json(
        run.path / "metrics.json",
        {"cell": {"suite": run.config["suite"], **run.config["cell"]}, "metrics": metrics},
    )


def summary(metrics: dict[str, dict[str, Any]]) -> str:
    """Return the numbers in a line, with 95% bootstrap intervals where they are known."""
    return ", ".join(
        f"{name} {shown(metric)}" for name, metric in metrics.items() if "/" not in name
    )


def shown(metric: dict[str, Any]) -> str:
    """Return a metric as text: four significant digits, and its interval."""
    text = f"{metric['value']:.4g}"
    if "interval" in metric:
        low, high = metric["interval"]
        text += f" [{low:.4g}, {high:.4g}]"
    return text
