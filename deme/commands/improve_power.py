"""What `deme improve` can find: the improvement that its verdict sees with 80% power."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev, variance

from deme.commands.compare import mean_value, read_evaluations
from deme.commands.improve_work import BEFORE, Work, decisive_metric
from deme.report.statistics import digits_for, smallest_detectable
from deme.runs import Metrics
from deme.system import logger, read_json


def log_power(evaluations: Sequence[Path]) -> None:
    """Log the deciding metric of the given model and, of a distance, which improvement is found.

    That is from the spread of the given model alone. Losses are compared image by image, which
    finds far smaller differences: `log_loss_power`.
    """
    found = read_evaluations(list(map(str, evaluations)))
    metric = decisive_metric(next(iter(found.values()))["metrics"])
    mean = mean_value(metric, found)
    text = f"{metric} of the given model on test images: {mean:.{digits_for(mean)}f}"
    if metric != "loss":
        noise = fmean(variance(result["replicates"][metric]) for result in found.values())
        smallest = smallest_detectable((2 * noise) ** 0.5, len(found), 0.0, 1) if noise else 0.0
        text += (
            f"; an improvement by {smallest:.2g} ({smallest / abs(mean or 1):.0%}) is found with "
            "80% power, and less where both models err alike on the same noise"
        )
    logger.info(text)


def log_loss_power(work: Work, idea: str, evaluation: Path) -> None:
    """Log which improvement of the loss is found, from an idea's differences on validation images.

    Nothing is logged where the loss does not decide, or where nothing is chosen. `evaluation` is
    that of the given model on the test images.
    """
    measured = read_json(evaluation / "metrics.json", Metrics)["metrics"]
    if decisive_metric(measured) != "loss" or not {BEFORE, idea} <= work.scored.keys():
        return
    differences = loss_differences(work.scored[BEFORE], work.scored[idea])
    error = stdev(differences) / math.sqrt(measured["loss"]["num_images"])
    smallest, mean = smallest_detectable(error, 1, 0.0, 1), float(measured["loss"]["value"])
    logger.info(
        f"an improvement of the loss by {smallest:.2g} ({smallest / abs(mean or 1):.2%}) is found "
        f"with 80% power, if models differ from the given one as {idea} does"
    )


def loss_differences(before: Path, after: Path) -> list[float]:
    """Return the loss of each image minus the other's: of the same image, timesteps and noise."""
    from deme.system.tensors import TensorFile

    new, old = (
        TensorFile(path / "moments" / "loss.safetensors").read("loss") for path in (after, before)
    )
    differences: list[float] = (new - old).tolist()
    return differences
