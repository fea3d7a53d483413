"""The reference of a distance: statistics and features of real images, cached by content."""

import json
import shutil
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from deme.data import Images, batches
from deme.diffusion import generator
from deme.metrics import statistics_file
from deme.metrics.features import FeatureExtractor
from deme.metrics.shards import FeatureShards
from deme.metrics.statistics import Statistics
from deme.system import files, locked, logger, tensors

SUBSET = 10_000  # images whose features are kept for KID, precision and recall
SHARD = 1000
BATCH = 100


@dataclass(frozen=True)
class Reference:
    """Statistics of the reference images, and features of at most SUBSET of them.

    `features` is None where only statistics are known.
    """

    statistics: Statistics
    features: Tensor | None
    name: str


def subset(shards: FeatureShards, suffix: str) -> Tensor:
    """Return the features of SUBSET random images, or of all if they are no more.

    The choice depends on the number of images alone.
    """
    draw = generator("reference", shards.total)
    order = torch.randperm(shards.total, generator=draw)[:SUBSET].sort().values
    rows, first = [], 0
    for features in shards.read(suffix):
        rows.append(features[order[(order >= first) & (order < first + len(features))] - first])
        first += len(features)
    return torch.cat(rows)


def measured(images: Images, what: str, extractor: FeatureExtractor, cache: Path) -> Reference:
    """Return the reference that `images` make, from `cache` if it is there.

    `what` the images are stands in tables: "held-out images". Of several processes one measures
    and the others wait; a killed measurement is resumed.
    """
    parts = [images.content_hash(), len(images), extractor.name, extractor.weights, SUBSET]
    folder = cache / "references" / files.sha256_text(json.dumps(parts))[:32]
    name = f"{len(images):,} {what} ({images.content_hash()[:8]})"
    if not folder.exists():
        with locked(
            folder.with_suffix(".lock"),
            lambda owner: logger.info("%s is measuring %s; waiting for it", owner, name),
        ):
            if not folder.exists():
                _measure(images, name, extractor, folder)
    # left by a process that was killed at the end
    shutil.rmtree(folder.with_suffix(".partial"), ignore_errors=True)
    return Reference(
        statistics_file.load(folder / "statistics.safetensors"),
        tensors.TensorFile(folder / "features.safetensors").read("features"),
        name,
    )


def _measure(images: Images, name: str, extractor: FeatureExtractor, folder: Path) -> None:
    if (place := folder.with_suffix(".partial")).is_symlink():
        place.unlink()  # it would lead out of the cache
    shards = FeatureShards(place, len(images), SHARD)
    shards.fill(
        lambda indices: batches(images, BATCH, indices),
        [extractor],
        f"{extractor.suffix} features of {name}",
    )
    statistics = reduce(Statistics.update, shards.read(extractor.suffix), Statistics())

    def fill(partial: Path) -> None:
        statistics_file.save(partial / "statistics.safetensors", statistics)
        tensors.save(
            partial / "features.safetensors", {"features": subset(shards, extractor.suffix)}
        )
        files.write_json(
            partial / "about.json",
            {
                "images": name,
                "content": images.content_hash(),
                "extractor": extractor.name,
                "weights": extractor.weights,
            },
        )

    files.write_folder(folder, fill)
