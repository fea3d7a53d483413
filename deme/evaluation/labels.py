"""The label of every metric: its number of images, reference, implementation and direction.

`deme evaluate` writes them next to the values; `deme verify` recomputes them and compares.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from deme.data import EncodedDataset, Images
from deme.diffusion import TimestepRange, uniform
from deme.metrics import KINDS, SUBSET, FeatureExtractor, Reference
from deme.runs import LossMetricSettings, MetricsSettings
from deme.system import BadConfig, NotFinite

Label = Mapping[str, str | int]
Labels = dict[str, Label]


@dataclass(frozen=True)
class Metric:
    """A measured metric: its label, and what follows from the images.

    `more`: its standard error or standard deviation. `replicates`: bootstrap replicates. Raises
    NotFinite if one of them is NaN or infinite.
    """

    value: float
    label: Label
    replicates: list[float] | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {"its value": [self.value], **{key: [one] for key, one in self.more.items()}}
        numbers["a bootstrap replicate"] = self.replicates or []
        if wrong := [what for what, each in numbers.items() if not all(map(math.isfinite, each))]:
            raise NotFinite(
                f"a metric against {self.label['reference']} is NaN or infinite: {wrong[0]} "
                f"({self.label['implementation']})\n"
                "the weights, the images or the reference hold values that are too large"
            )

    def entry(self) -> dict[str, object]:
        """Return the entry in metrics.json, with an interval where replicates are known."""
        found: dict[str, object] = {"value": self.value, **self.more, **self.label}
        if self.replicates is not None and "std" not in self.more:
            found["interval"] = interval(self.value, self.replicates)
        return found


def distance_labels(
    metrics: MetricsSettings, extractor: FeatureExtractor, reference: Reference, total: int
) -> Labels:
    """Return the labels of all metrics on one extractor's features, the Frechet distance first."""
    features = f"on {extractor.name} (weights {extractor.weights[:12]})"

    def label(total: int, reference: str, better: str, implementation: str) -> Label:
        return {
            "n": total,
            "reference": reference,
            "better": better,
            "implementation": f"{implementation} {features}",
        }

    labels = {
        extractor.frechet_name: label(
            total, reference.name, "lower", "Frechet distance (float64, unbiased covariance)"
        )
    }
    if reference.features is None:
        return labels
    n, against = min(total, SUBSET), reference.name
    if (kept := len(reference.features)) < reference.statistics.count:
        against = f"{kept:,} of {reference.name}"
    if metrics.kid:
        labels[f"kid_{extractor.suffix}"] = label(
            n,
            against,
            "lower",
            "squared MMD (float64, unbiased, all pairs, kernel (x.y / d + 1)^3)",
        )
    if metrics.nearest_k:
        for kind in KINDS:
            labels[f"{kind}_{extractor.suffix}"] = label(
                n, against, "higher", f"prdc, k = {metrics.nearest_k},"
            )
    return labels


def loss_ranges(settings: LossMetricSettings, num_timesteps: int) -> list[TimestepRange]:
    """Return the timestep ranges of the held-out loss. Raises BadConfig."""
    try:
        return uniform(settings.num_ranges, num_timesteps)
    except ValueError as error:
        raise BadConfig(f"metrics.loss: {error}") from error


def loss_labels(
    settings: LossMetricSettings, held_out: Images | EncodedDataset, num_timesteps: int
) -> Labels:
    """Return the labels of the held-out loss: "loss" over all timesteps, "loss/i" in range i."""
    ranges = loss_ranges(settings, num_timesteps)
    each = settings.draws * len(held_out)

    def label(count: int, where: TimestepRange) -> Label:
        return {
            "n": count,
            "num_images": len(held_out),
            "reference": f"{len(held_out):,} held-out images ({held_out.content_hash()[:8]})",
            "better": "lower",
            "implementation": (
                "mean squared error of the network's prediction in float32, "
                f"{settings.draws} noise draws per image and timestep range, seed {settings.seed}"
            ),
            "range": str(where),
        }

    return {
        "loss": label(each * len(ranges), TimestepRange(0, num_timesteps)),
        **{f"loss/{i}": label(each, item) for i, item in enumerate(ranges)},
    }


def interval(value: float, replicates: list[float]) -> list[float]:
    """Return the 95% interval: the value +- 1.96 standard deviations of bootstrap replicates."""
    mean = sum(replicates) / len(replicates)
    half = 1.96 * (sum((r - mean) ** 2 for r in replicates) / (len(replicates) - 1)) ** 0.5
    return [value - half, value + half]
