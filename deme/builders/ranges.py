"""The partition of [0, T) into ranges, and the range that a run trains on."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images
from deme.diffusion import TimestepRange
from deme.methods.affinity import MIN_RELIABILITY, gradient_affinity
from deme.models.denoiser import DenoisingModel
from deme.runs import Affinity, TrainSettings, accepted_arguments, instantiate_with
from deme.system import BadConfig, WorkFailed, files, logger, read_json


def build_ranges(
    settings: TrainSettings,
    model: DenoisingModel,
    images: Callable[[], Images | EncodedDataset],
    device: str,
    file: Path,
) -> list[TimestepRange]:
    """Return the partition of [0, T) that `ranges` names.

    Gradient affinities, if it needs them, are measured on `images()` and kept in `file`.
    """
    used = settings.expert is not None or "ranges" in accepted_arguments(
        settings.method
    ) | accepted_arguments(settings.timesteps)
    if "affinity" in accepted_arguments(settings.ranges) and not used:
        raise BadConfig(
            "ranges=gradient would be measured, and this run does not use ranges\n"
            "type: ranges=uniform, or method=ant"
        )

    def affinity(num_bins: int, num_images: int, seed: int) -> Tensor:
        if not file.exists():
            logger.info(
                "measuring gradient affinity: %d bins of timesteps, %d images each",
                num_bins,
                num_images,
            )
            found = gradient_affinity(model.to(device), images(), num_bins, num_images, seed)
            _check_reliability(found.reliability, num_images)
            files.write_json(
                file,
                {
                    "cosines": [[round(c, 6) for c in row] for row in found.cosines.tolist()],
                    "reliability": [round(r, 6) for r in found.reliability.tolist()],
                },
            )
        return torch.tensor(read_json(file, Affinity)["cosines"], dtype=torch.float64)

    ranges: list[TimestepRange] = instantiate_with(
        settings.ranges,
        num_timesteps=model.schedule.num_timesteps,
        schedule=model.schedule,
        affinity=affinity,
    )
    return ranges


def _check_reliability(reliability: Tensor, num_images: int) -> None:
    known, total = int((reliability >= MIN_RELIABILITY).sum()), len(reliability)
    logger.info(
        "two estimates of a bin's gradient have a cosine of %.2f (median); "
        "%d of %d bins are reliable",
        float(reliability.median()),
        known,
        total,
    )
    if known < total / 2:
        raise WorkFailed(
            f"the loss gradients are too noisy to find ranges: {known} of {total} bins are "
            f"reliable\ntype: ranges.num_images={4 * num_images} or more, or fewer ranges.num_bins"
        )


def range_of(expert: int | None, ranges: list[TimestepRange]) -> TimestepRange:
    """Return the range of an expert, or all timesteps for None. Raises BadConfig."""
    if expert is None:
        return TimestepRange(0, ranges[-1].high)
    if expert not in range(len(ranges)):
        raise BadConfig(
            f"expert={expert}: with {len(ranges)} ranges it must lie in 0..{len(ranges) - 1}"
        )
    return ranges[expert]
