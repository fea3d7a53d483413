"""Statistics on disk: safetensors of this package, and .npz files of pytorch-fid and clean-fid."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from deme.metrics.features import FeatureExtractor
from deme.metrics.statistics import Statistics
from deme.system import BadConfig, MissingInput, WorkFailed, files, first_line, tensors

MEMBERS = [f"{name}.npy" for name in ("mu", "sigma", "count", "extractor", "weights", "source")]
MAX_BYTES = 1 << 30  # of the arrays of a statistics file


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
    file = tensors.TensorFile(path)
    d = math.prod(file.shape("mean"))
    shapes = {"count": (1,), "mean": (d,), "covariance": (d * (d + 1) // 2,)}
    if {name: shape for name, (shape, _) in file.specs.items()} != shapes:
        raise WorkFailed(f"{path} holds no statistics\ndelete it and run again")
    stored = file.read_all()
    rows, columns = torch.tril_indices(d, d)
    covariance = torch.zeros(d, d, dtype=torch.float64)
    covariance[rows, columns] = covariance[columns, rows] = stored["covariance"]
    try:
        return Statistics.given(int(stored["count"]), stored["mean"], covariance)
    except ValueError as error:
        raise WorkFailed(f"{path}: {error}") from error


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


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a statistics file. Raises MissingInput, WorkFailed."""
    if not path.is_file():
        raise MissingInput(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist() if one.filename in MEMBERS)
        if size > MAX_BYTES:
            raise ValueError(f"its arrays take {size / 2**20:,.0f} MiB")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files if f"{name}.npy" in MEMBERS}
        for name in ("mu", "sigma"):
            if held[name].dtype.kind not in "fiu":
                raise ValueError(f"{name} is of type {held[name].dtype}")
            held[name] = held[name].astype(np.float64)
        if "count" in held and (held["count"].dtype.kind not in "iu" or held["count"].size != 1):
            raise ValueError("count must be a whole number")
    except Exception as error:  # whatever a damaged archive makes of zipfile and numpy
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise WorkFailed(f"{path} is not a statistics file with mu and sigma: {reason}") from error
    return held


def load_npz(path: Path, extractor: FeatureExtractor) -> tuple[Statistics, str]:
    """Return the statistics in a file and a description of their origin.

    Files of other programs do not name their extractor: then only the number of features is
    checked, and the description says so. Raises MissingInput, WorkFailed (not such a file),
    BadConfig (another extractor).
    """
    held = _read_npz(path)
    mean, covariance = (torch.from_numpy(held[name]) for name in ("mu", "sigma"))
    needed = f"{extractor.name}, weights {extractor.weights[:12]}"
    named = "extractor" in held
    stated = f"{held['extractor']!s:.300}, weights {held.get('weights')!s:.12}" if named else needed
    if stated != needed or mean.shape != (extractor.dimension,):
        raise BadConfig(
            f"{path} holds statistics of another extractor: "
            f"{stated if named else f'{mean.numel()} numbers per image'}\n"
            f"needed: {needed} ({extractor.dimension} numbers per image)\n"
            "type: deme stats out=<file>.npz"
        )
    count = int(held["count"].reshape(())) if "count" in held else None
    try:
        if count is not None and not 2 <= count < 2**53:
            raise ValueError(f"statistics of {count} images")
        statistics = Statistics.given(count or extractor.dimension + 1, mean, covariance)
    except ValueError as error:
        raise WorkFailed(f"{path}: {error}") from error
    images = f"{count:,} images" if count else "an unstated number of images"
    unnamed = "" if named else ", extractor not stated"
    return statistics, f"{images} ({path.name} {files.sha256(path)[:8]}{unnamed})"
