"""What stands beside every number: its count of images, its reference, its implementation, and which way is better.

Written by `deme evaluate`; `deme verify` writes them again and compares.
"""

from typing import Any

from deme.data import Images
from deme.diffusion.ranges import TimestepRange, uniform
from deme.metrics.features import FeatureExtractor
from deme.metrics.reference import SUBSET, Reference
from deme.system.errors import BadConfig

Labels = dict[str, dict[str, Any]]
NEIGHBOURS = ("precision", "recall", "density", "coverage")


def distance_labels(
    config: dict[str, Any], extractor: FeatureExtractor, reference: Reference, total: int
) -> Labels:
    """Return the labels of all metrics on one extractor's features: Frechet distance, KID, precision and the like."""
    settings = config["metrics"]
    on = f"on {extractor.name} (weights {extractor.weights[:12]})"
    frechet = {
        "n": total,
        "reference": reference.name,
        "better": "lower",
        "implementation": f"deme.metrics.frechet {on}",
    }
    labels: Labels = {extractor.frechet_name: frechet}
    if reference.features is None:
        return labels
    kept = len(reference.features)
    against = (
        reference.name if kept == reference.statistics.count else f"{kept:,} of {reference.name}"
    )
    about = {"n": min(total, SUBSET), "reference": against}
    if settings["kid"]:
        implementation = f"deme.metrics.kernel {on}, all pairs"
        labels[f"kid_{extractor.suffix}"] = {
            **about,
            "better": "lower",
            "implementation": implementation,
        }
    if settings["nearest_k"]:
        implementation = f"prdc, k = {settings['nearest_k']}, {on}"
        for kind in NEIGHBOURS:
            labels[f"{kind}_{extractor.suffix}"] = {
                **about,
                "better": "higher",
                "implementation": implementation,
            }
    return labels


def loss_ranges(settings: dict[str, Any], num_timesteps: int) -> list[TimestepRange]:
    """Return the ranges that the held-out loss is told of. Raises BadConfig."""
    try:
        return uniform(settings["num_ranges"], num_timesteps)
    except ValueError as error:
        raise BadConfig(f"metrics.loss: {error}") from error


def loss_labels(config: dict[str, Any], held_out: Images, num_timesteps: int) -> Labels:
    """Return the labels of the held-out loss, "loss" over all timesteps and "loss/i" in range i."""
    settings = config["metrics"]["loss"]
    ranges = loss_ranges(settings, num_timesteps)
    each = settings["draws"] * len(held_out)
    labels: Labels = {}
    for name, count, where in [
        ("loss", each * len(ranges), TimestepRange(0, num_timesteps)),
        *((f"loss/{i}", each, item) for i, item in enumerate(ranges)),
    ]:
        labels[name] = {
            "n": count,
            "num_images": len(held_out),
            "reference": f"{len(held_out):,} held-out images ({held_out.content_hash()[:8]})",
            "better": "lower",
            "implementation": f"deme.metrics.denoising_loss, {settings['draws']} draws an image and range, seed {settings['seed']}",
            "range": str(where),
        }
    return labels


def interval(value: float, replicates: list[float]) -> list[float]:
    """Return a 95% interval: 1.96 standard deviations of the bootstrap replicates on each side of the value."""
    mean = sum(replicates) / len(replicates)
    half = 1.96 * (sum((r - mean) ** 2 for r in replicates) / (len(replicates) - 1)) ** 0.5
    return [value - half, value + half]
