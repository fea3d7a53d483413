"""`deme evaluate`: exactly n images from a seed, their distance to held-out images, and the held-out denoising loss."""

from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig
from deme.runs import Run

SOURCES = ("weights", "experts", "real")


def run(config: dict[str, Any]) -> Path:
    """Evaluate unless it is done; return the run directory."""
    _check(config)
    return Run.planned(config).execute(_evaluate)


def _check(config: dict[str, Any]) -> None:
    if config["source"] not in SOURCES:
        raise BadConfig(f"source must be one of {', '.join(SOURCES)}, got {config['source']!r}")
    if (config["source"] == "experts") != bool(config["inputs"]["experts"]):
        raise BadConfig("source=experts and inputs.experts=[<run>,...] go together")
    if config["source"] == "real" and not config["metrics"]["features"]:
        raise BadConfig("source=real compares images and needs a feature extractor; metrics.features is empty")


def _evaluate(run: Run) -> None:
    from deme.config import make
    from deme.stages.common import Compute
    from deme.stages.measure import measure_model, measure_real

    compute = Compute.of(run.config)
    data = make(run.config["data"])
    if run.config["source"] == "real":
        metrics, replicates = measure_real(run, data)
    else:
        metrics, replicates = measure_model(run, data, compute)
    files.write_json(run.path / "replicates.json", replicates)
    files.write_json(
        run.path / "metrics.json", {"cell": {"suite": run.config["suite"], **run.config["cell"]}, "metrics": metrics}
    )
    for shard in (run.path / "samples").glob("features_*.safetensors"):
        shard.unlink()
    if run.config["logger"]["mode"] != "disabled":
        from deme.training import wandb

        tracker = wandb.start(run.path, run.config["suite"], "evaluate", run.config["cell"], **run.config["logger"])
        grid = run.path / "samples" / "grid.png"
        wandb.finish(tracker, {k: m["value"] for k, m in metrics.items()}, grid if grid.exists() else None)
    shown = ", ".join(f"{name} {metric['value']:.4f}" for name, metric in metrics.items() if "/" not in name)
    run.log(f"evaluated {run.path}: {shown}")
