"""Statistics on disk: safetensors of this package, and .npz files of pytorch-fid and clean-fid."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from deme.metrics.features import FeatureExtractor
from deme.metrics.statistics import Statistics
from deme.system import BadConfig, MissingInput, WorkFailed, files, tensors


def save(path: Path, statistics: Statistics) -> None:
    """Write count, mean and the lower triangle of the covariance in float64."""
    d = len(statistics.mean)
    rows, columns = torch.tril_indices(d, d)
    tensors.save(
        path,
        {
            "count": torch.tensor([statistics.count]),
            "mean": statistics.mean.cpu(),
            "covariance": statistics.covariance.cpu()[rows, columns],
        },
    )


def load(path: Path) -> Statistics:
    """Read what `save` wrote. Raises MissingInput, WorkFailed."""
    stored = tensors.TensorFile(path).read_all()
    if stored.keys() != {"count", "mean", "covariance"}:
        raise WorkFailed(f"{path} holds no statistics")
    d = len(stored["mean"])
    rows, columns = torch.tril_indices(d, d)
    covariance = torch.zeros(d, d, dtype=torch.float64)
    covariance[rows, columns] = covariance[columns, rows] = stored["covariance"]
    return Statistics.given(int(stored["count"]), stored["mean"], covariance)


def save_npz(path: Path, statistics: Statistics, extractor: FeatureExtractor, source: str) -> None:
    """Write a file that pytorch-fid and clean-fid read.

    It also names the extractor, the images, and their number.
    """
    with files.atomic(path) as file:
        np.savez(
            file,
            mu=statistics.mean.cpu().numpy(),
            sigma=statistics.covariance.cpu().numpy(),
            count=np.array(statistics.count),
            extractor=np.array(extractor.name),
            weights=np.array(extractor.weights),
            source=np.array(source),
        )


def load_npz(path: Path, extractor: FeatureExtractor) -> tuple[Statistics, str]:
    """Return the statistics in a file and a description of their origin.

    Files of other programs do not name their extractor: then only the number of features is
    checked, and the description says so. Raises MissingInput, WorkFailed (not such a file),
    BadConfig (another extractor).
    """
    if not path.is_file():
        raise MissingInput(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files}
        mean, covariance = torch.from_numpy(held["mu"]), torch.from_numpy(held["sigma"])
    except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WorkFailed(f"{path} is no statistics file with mu and sigma: {error}") from error
    needed = f"{extractor.name}, weights {extractor.weights[:12]}"
    named = "extractor" in held
    stated = f"{held['extractor']}, weights {str(held['weights'])[:12]}" if named else needed
    if stated != needed or mean.shape != (extractor.dimension,):
        raise BadConfig(
            f"{path} holds statistics of another extractor: "
            f"{stated if named else f'{mean.numel()} numbers per image'}\n"
            f"needed: {needed} ({extractor.dimension} numbers per image)\n"
            "type: deme stats out=<file>.npz"
        )
    count = int(held["count"]) if "count" in held else None
    try:
        statistics = Statistics.given(count or extractor.dimension + 1, mean, covariance)
    except ValueError as error:
        raise WorkFailed(f"{path}: {error}") from error
    images = f"{count:,} images" if count else "an unstated number of images"
    unnamed = "" if named else ", extractor not stated"
    return statistics, f"{images} ({path.name} {files.sha256(path)[:8]}{unnamed})"
