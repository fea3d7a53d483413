"""The power of `deme improve`: the smallest improvement that its verdict detects with 80% power."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev, variance

from deme.commands.compare import mean_value, read_evaluations
from deme.commands.improve_work import Work, decisive_metric
from deme.report.statistics import smallest_detectable
from deme.runs import BASE_IDEA, read_metrics
from deme.system import digits_for, logger


def log_power(evaluations: Sequence[Path]) -> None:
    """Log the deciding metric of the base and, for a distance, the smallest detectable improvement.

    It is computed from the spread of the base alone. A loss is compared image by image, which
    detects far smaller differences: `log_loss_power`.
    """
    found = read_evaluations(list(map(str, evaluations)))
    metric = decisive_metric(next(iter(found.values()))["metrics"])
    mean = mean_value(metric, found)
    text = f"{metric} of the base on test images: {mean:.{digits_for(mean)}f}"
    if metric != "loss":
        noise = fmean(variance(result["replicates"][metric]) for result in found.values())
        smallest = smallest_detectable((2 * noise) ** 0.5, len(found), 0.0, 1) if noise else 0.0
        text += (
            f"; an improvement by {smallest:.2g} ({smallest / abs(mean or 1):.0%}) can be "
            "detected with 80% power, and a smaller one if both models err alike on the same noise"
        )
    logger.info(text)


def log_loss_power(work: Work, idea: str, evaluation: Path) -> None:
    """Log the smallest detectable improvement of the loss, from an idea's validation differences.

    Nothing is logged if the loss does not decide, or if no choice is made. `evaluation` is that of
    the base on the test images.
    """
    measured = read_metrics(evaluation)
    if decisive_metric(measured) != "loss" or not {BASE_IDEA, idea} <= work.scored.keys():
        return
    differences = loss_differences(work.scored[BASE_IDEA], work.scored[idea])
    error = stdev(differences) / math.sqrt(measured["loss"]["num_images"])
    smallest, mean = smallest_detectable(error, 1, 0.0, 1), float(measured["loss"]["value"])
    logger.info(
        f"an improvement of the loss by {smallest:.2g} ({smallest / abs(mean or 1):.2%}) can be "
        f"detected with 80% power, if models differ from the base as much as {idea} does"
    )


def loss_differences(before: Path, after: Path) -> list[float]:
    """Return the loss of each image, first minus second, at the same timesteps and noise."""
    from deme.system.tensors import TensorFile

    new, old = (
        TensorFile(path / "moments" / "loss.safetensors").read("loss") for path in (after, before)
    )
    differences: list[float] = (new - old).tolist()
    return differences
