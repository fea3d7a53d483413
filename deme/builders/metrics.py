"""The feature extractors and the references that the `metrics` group names."""

from typing import Any

from deme.data import ImageData
from deme.data.joined import Joined
from deme.metrics import statistics_file
from deme.metrics.features import FeatureExtractor
from deme.metrics.reference import Reference, measured
from deme.runs.config import extractor_specs, instantiate
from deme.system.errors import BadConfig
from deme.system.paths import cache_of, locate

SPLITS = {"held_out": "held-out images", "train": "training images", "all": "images"}


def extractors_of(config: dict[str, Any], device: str = "cpu") -> list[FeatureExtractor]:
    """Return the extractors of `metrics.features`. Raises BadConfig for two that would share the name of a metric."""
    found = [instantiate(spec).to(device) for spec in extractor_specs(config["metrics"]).values()]
    statistics = config["metrics"]["statistics"] or {}
    if not isinstance(statistics, dict) or not all(
        isinstance(v, dict) and v.keys() == {"path"} for v in statistics.values()
    ):
        raise BadConfig(
            f"metrics.statistics must be {{<extractor>: {{path: <file>.npz}}}}, got {statistics}\n"
            "type: +metrics.statistics.<extractor>.path=<file>.npz"
        )
    unknown = set(statistics) - {extractor.suffix for extractor in found}
    if unknown:
        raise BadConfig(
            f"metrics.statistics names {', '.join(sorted(unknown))}; extractors here: {', '.join(e.suffix for e in found)}"
        )
    suffixes = [extractor.suffix for extractor in found]
    if len(set(suffixes)) < len(suffixes):
        raise BadConfig(
            f"two extractors of metrics.features measure the same: {', '.join(suffixes)}"
        )
    return found


def reference_of(
    config: dict[str, Any], data: ImageData | None, extractor: FeatureExtractor
) -> Reference:
    """Return what images are compared to: a statistics file, or images of the data set. Raises BadConfig."""
    metrics = config["metrics"]
    given = (metrics["statistics"] or {}).get(extractor.suffix)
    if given is not None:
        if metrics["kid"] or metrics["nearest_k"]:
            raise BadConfig(
                "KID, precision and recall need images to compare to; metrics.statistics holds their mean and covariance alone\n"
                "type: metrics.kid=false metrics.nearest_k=null"
            )
        statistics, origin = statistics_file.load_npz(locate(given["path"]), extractor)
        return Reference(statistics, None, origin)
    if data is None:
        raise BadConfig(
            f"{extractor.frechet_name} compares to real images, and data=none\n"
            f"type: data=<option>, or +metrics.statistics.{extractor.suffix}.path=<file>.npz"
        )
    split = metrics["reference"]
    if split not in list(SPLITS):
        raise BadConfig(f"metrics.reference must be one of {', '.join(SPLITS)}, got {split!r}")
    images = Joined([data.train, data.held_out]) if split == "all" else getattr(data, split)
    what = SPLITS[split]
    size = metrics["size"]
    if size is not None and (side := tuple(images.__getitems__([0]).shape[2:])) != (size, size):
        raise BadConfig(
            f"generated images are measured at {metrics['size']} x {metrics['size']}, what they are compared to is {side[0]} x {side[1]}\n"
            f"type: data.size={metrics['size']} metrics.loss=null, or +metrics.statistics.{extractor.suffix}.path=<file>.npz"
        )
    least = max(2, (metrics["nearest_k"] or 0) + 2)
    if len(images) < least:
        raise BadConfig(
            f"these metrics need at least {least} {what} to compare to, the data set has {len(images)}"
        )
    return measured(images, what, extractor, cache_of(config))
