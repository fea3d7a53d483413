"""The feature extractors and the references that the `metrics` group names."""

from pathlib import Path
from typing import Any

from deme.config import chosen, make
from deme.data import ImageData
from deme.errors import BadConfig
from deme.metrics import statistics_file
from deme.metrics.features import FeatureExtractor
from deme.metrics.reference import Reference, measured
from deme.paths import locate
from deme.runs import say

SPLITS = ("held_out", "train")


def extractors_of(config: dict[str, Any], device: str = "cpu") -> list[FeatureExtractor]:
    """Return the extractors of `metrics.features`. Raises BadConfig for two that would share the name of a metric."""
    found = [make(spec).to(device) for spec in chosen(config["metrics"]["features"]).values()]
    suffixes = [extractor.suffix for extractor in found]
    if len(set(suffixes)) < len(suffixes):
        raise BadConfig(f"two extractors of metrics.features measure the same: {', '.join(suffixes)}")
    return found


def cache_of(config: dict[str, Any]) -> Path:
    """Return the folder for what is kept by content."""
    return Path(config["paths"]["cache"]).expanduser()


def reference_of(config: dict[str, Any], data: ImageData, extractor: FeatureExtractor) -> Reference:
    """Return what images are compared to: a statistics file, or images of the data set. Raises BadConfig."""
    metrics = config["metrics"]
    given = (metrics["statistics"] or {}).get(extractor.suffix)
    if given is not None:
        statistics, origin = statistics_file.load_npz(locate(given["path"]), extractor.dimension, extractor.name)
        return Reference(statistics, None, origin)
    split = metrics["reference"]
    if split not in SPLITS:
        raise BadConfig(f"metrics.reference must be one of {', '.join(SPLITS)}, got {split!r}")
    images = data.held_out if split == "held_out" else data.train
    what = "held-out images" if split == "held_out" else "training images"
    return measured(images, what, extractor, cache_of(config), say)
