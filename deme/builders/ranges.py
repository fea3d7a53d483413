"""The partition of [0, T) into ranges, and the range that a run trains on."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images
from deme.diffusion import TimestepRange
from deme.methods.affinity import MIN_RELIABILITY, gradient_affinity
from deme.models.denoiser import DenoisingModel
from deme.runs import Affinity, TrainSettings, accepted_arguments, base_hash, instantiate_with
from deme.system import BadConfig, WorkFailed, files, locate, logger, read_json
from deme.system.values import MAKE_AGAIN


def build_ranges(
    settings: TrainSettings,
    model: DenoisingModel,
    images: Callable[[], Images | EncodedDataset],
    device: str,
    file: Path,
) -> list[TimestepRange]:
    """Return the partition of [0, T) that `ranges` names.

    Gradient affinities, if it needs them, are measured on `images()` and kept in `file`, or read
    from the file that `ranges.path` names.
    """
    users = [settings.timesteps]
    if not isinstance(settings.method.get("consistency_weight"), (int, float)):
        users.append(settings.method)  # one weight for all ranges needs none
    used = settings.expert is not None or any("ranges" in accepted_arguments(u) for u in users)
    if "affinity" in accepted_arguments(settings.ranges) and not used:
        raise BadConfig(
            "ranges=gradient needs a measurement, but this run does not use ranges\n"
            "type: ranges=uniform, or method=ant"
        )

    def saved_affinity(path: str) -> Tensor:
        place = locate(path)
        found = read_json(place, Affinity)
        expected, given = model.schedule.num_timesteps, found.get("num_timesteps")
        if given not in (None, expected):
            raise BadConfig(
                f"{path} is about {given} timesteps, and the model has {expected}\n"
                "type: ranges.path=<a file of this model>, or ranges.path=null"
            )
        base = settings.model.get("path")
        if found.get("base") not in (None, base and base_hash(settings.model, str(base))):
            logger.warning("%s was measured at other weights than those of this model", path)
        if "reliability" in found:
            count = found.get("num_images", 0)
            _check_reliability(torch.tensor(found["reliability"]), count, "figure")
        return read_affinity(place, len(found["cosines"]))

    def affinity(num_bins: int, num_images: int, seed: int) -> Tensor:
        if not file.exists():
            logger.info(
                "measuring gradient affinity: %d bins of timesteps, %d images each",
                num_bins,
                num_images,
            )
            found = gradient_affinity(model.to(device), images(), num_bins, num_images, seed)
            _check_reliability(found.reliability, num_images, "ranges")
            files.write_json(
                file,
                {
                    "cosines": [[round(c, 6) for c in row] for row in found.cosines.tolist()],
                    "reliability": [round(r, 6) for r in found.reliability.tolist()],
                },
            )
        return read_affinity(file, num_bins)

    ranges: list[TimestepRange] = instantiate_with(
        settings.ranges,
        num_timesteps=model.schedule.num_timesteps,
        schedule=model.schedule,
        scheduler_config=model.sampler_config,
        affinity=affinity,
        saved_affinity=saved_affinity,
    )
    return ranges


def read_affinity(file: Path, num_bins: int) -> Tensor:
    """Return the cosines [num_bins, num_bins] that are kept in a file. Raises WorkFailed."""
    cosines = read_json(file, Affinity)["cosines"]
    if {len(cosines), *map(len, cosines)} != {num_bins}:
        raise WorkFailed(
            f"{file} is damaged: cosines must be {num_bins} lists of {num_bins} numbers\n"
            f"{MAKE_AGAIN}"
        )
    return torch.tensor(cosines, dtype=torch.float64)


def _check_reliability(reliability: Tensor, num_images: int, group: str) -> None:
    known, total = int((reliability >= MIN_RELIABILITY).sum()), len(reliability)
    logger.info(
        "two estimates of a bin's gradient have a cosine of %.2f (median); "
        "%d of %d bins are reliable",
        float(reliability.median()),
        known,
        total,
    )
    if known < total / 2:
        more = f"num_images={4 * num_images}" if num_images else "num_images=<more>"
        raise WorkFailed(
            f"the loss gradients are too noisy to find ranges: {known} of {total} bins are "
            f"reliable\ntype: {group}.{more} or more, or fewer {group}.num_bins"
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
