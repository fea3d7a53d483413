"""The feature extractors, scores and references that the `metrics` group names."""

from pathlib import Path

from deme.data import ImageData, JoinedImages
from deme.metrics import FeatureExtractor, Reference, TextScore, measured, statistics_file
from deme.runs import MetricsSettings, instantiate, instantiate_with
from deme.system import BadConfig, locate

SPLITS = {"held_out": "held-out images", "train": "training images", "all": "images"}


def load_extractors(
    metrics: MetricsSettings, data: ImageData | None, cache: Path, device: str = "cpu"
) -> list[FeatureExtractor]:
    """Return the feature extractors of `metrics.features`.

    An extractor that is trained on images uses the training images of `data`, and stores its
    weights in `cache`. Raises BadConfig for two extractors of the same name, for reference
    statistics of an extractor that is not chosen, and for too few images to train on.
    """
    images = None if data is None else data.train
    found: list[FeatureExtractor] = [
        instantiate_with(option, images=images, cache=cache).to(device)
        for option in metrics.features.values()
    ]
    names = [extractor.suffix for extractor in found]
    if unknown := set(metrics.statistics) - set(names):
        raise BadConfig(
            f"metrics.statistics names {', '.join(sorted(unknown))}; "
            f"extractors here: {', '.join(names)}"
        )
    if len(set(names)) < len(names):
        raise BadConfig(
            f"two extractors of metrics.features have the same name: {', '.join(names)}"
        )
    return found


def load_scores(metrics: MetricsSettings, device: str = "cpu") -> list[TextScore]:
    """Return the scores of `metrics.scores`. Raises BadConfig for two of one name."""
    found: list[TextScore] = [instantiate(option).to(device) for option in metrics.scores.values()]
    names = [score.score_name for score in found]
    if len(set(names)) < len(names):
        raise BadConfig(f"two scores of metrics.scores have the same name: {', '.join(names)}")
    return found


def load_reference(
    metrics: MetricsSettings, data: ImageData | None, extractor: FeatureExtractor, cache: Path
) -> Reference:
    """Return what images are compared to: a statistics file, or images of the data set.

    Statistics of images are kept in `cache`. Raises BadConfig where neither fits the metrics.
    """
    file = f"+metrics.statistics.{extractor.suffix}.path=<file>.npz"
    if (given := metrics.statistics.get(extractor.suffix)) is not None:
        if metrics.kid or metrics.nearest_k:
            raise BadConfig(
                "KID, precision and recall compare to images; metrics.statistics holds only their "
                "mean and covariance\ntype: metrics.kid=false metrics.nearest_k=null"
            )
        statistics, origin = statistics_file.load_npz(locate(given.path), extractor)
        return Reference(statistics, None, origin)
    if data is None:
        raise BadConfig(
            f"{extractor.frechet_name} compares to real images, and data=none\n"
            f"type: data=<option>, or {file}"
        )
    split, size = metrics.reference, metrics.size
    images = JoinedImages([data.train, data.held_out]) if split == "all" else getattr(data, split)
    least = max(2, (metrics.nearest_k or 0) + 2)
    if len(images) < least:
        raise BadConfig(
            f"these metrics compare to at least {least} {SPLITS[split]}; "
            f"the data set has {len(images)}"
        )
    if size is not None and (side := tuple(images.__getitems__([0]).shape[2:])) != (size, size):
        raise BadConfig(
            f"generated images are measured at {size} x {size}, and the images that they are "
            f"compared to are {side[0]} x {side[1]}\n"
            f"type: data.size={size} metrics.loss=null, or {file}"
        )
    return measured(images, SPLITS[split], extractor, cache)
