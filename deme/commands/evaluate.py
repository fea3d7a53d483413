"""`deme evaluate`: generate images from a seed, and measure them and the held-out loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deme.commands.arguments import check_device, log_without_effect
from deme.runs import EvaluateSettings, Run, build, read_metrics
from deme.system import files, logger, print_result
from deme.tracking import Mirror


def run(config: dict[str, object]) -> Path:
    """Evaluate unless it is done, and return the run directory.

    If another process is evaluating it, make images together with it.
    """
    settings = build(EvaluateSettings, config)
    log_without_effect(settings)
    run, mirror = Run.planned(config), Mirror.of(settings.logger)
    check_device(run, settings.compute)
    path = run.execute(lambda run: _evaluate(run, settings), lambda run: _help(run, settings))
    mirror.publish(path)
    return path


def _help(run: Run, settings: EvaluateSettings) -> None:
    if settings.needs_images:
        from deme.evaluation.images import help_with

        help_with(run, settings)


def _evaluate(run: Run, settings: EvaluateSettings) -> None:
    from deme.evaluation.images import clear

    file, samples = run.path / "metrics.json", run.path / "samples"
    if not file.exists():  # written last: an earlier process may have stopped after it
        _measure(run, settings)
    metrics = read_metrics(run.path)
    text = f"evaluated {run.path}: {summary(metrics)}"
    logger.debug(text)  # for log.txt; the terminal has the result on stdout
    print_result(text)
    clear(samples)


def _measure(run: Run, settings: EvaluateSettings) -> None:
    from deme.builders import Compute
    from deme.evaluation.measure import measure

    found = measure(run, settings, Compute.of(settings.compute))
    spread = {name: one.replicates for name, one in found.items() if one.replicates is not None}
    files.write_json(run.path / "replicates.json", spread)
    cell = {"suite": settings.suite, **settings.cell}
    metrics = {name: one.entry() for name, one in found.items()}
    files.write_json(run.path / "metrics.json", {"cell": cell, "metrics": metrics})


def summary(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the metrics in a line: four significant digits, and the 95% interval if known."""
    texts = []
    for name, metric in metrics.items():
        if "/" not in name:
            ends = ", ".join(f"{end:.4g}" for end in metric.get("interval", ()))
            texts.append(f"{name} {metric['value']:.4g}" + (f" [{ends}]" if ends else ""))
    return ", ".join(texts)
