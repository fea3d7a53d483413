"""From the config of a train run to the ranges of [0, T), and to the one that it trains on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images
from deme.diffusion.ranges import TimestepRange
from deme.methods.affinity import LEAST_RELIABILITY, Affinity, gradient_affinity
from deme.models.denoiser import DenoisingModel
from deme.runs.config import accepted_arguments, instantiate_with
from deme.runs.run import Run
from deme.system import files
from deme.system.errors import BadConfig, WorkFailed


def ranges_of(
    run: Run, model: DenoisingModel, images: Callable[[], Images | EncodedDataset], device: str
) -> list[TimestepRange]:
    """Return the partition of [0, T) that the config names; measured gradient affinities are kept in affinity.json.

    `images` is called if they are to be measured.
    """
    config = run.config
    used = config["expert"] is not None or "ranges" in accepted_arguments(
        config["method"]
    ) | accepted_arguments(config["timesteps"])
    if "affinity" in accepted_arguments(config["ranges"]) and not used:
        raise BadConfig(
            "ranges=gradient would be measured and not used by this run\ntype: ranges=uniform, or method=ant"
        )

    def affinity(num_bins: int, num_images: int, seed: int) -> Tensor:
        place = run.path / "affinity.json"
        if not place.exists():
            run.log(
                f"measuring gradient affinity: {num_bins} bins of timesteps, {num_images} images each"
            )
            found = gradient_affinity(model.to(device), images(), num_bins, num_images, seed)
            _check_reliability(run, found)
            files.write_json(
                place,
                {
                    "cosines": [[round(c, 6) for c in row] for row in found.cosines.tolist()],
                    "reliability": [round(r, 6) for r in found.reliability.tolist()],
                },
            )
        return torch.tensor(files.read_json(place)["cosines"], dtype=torch.float64)

    schedule = model.schedule
    ranges: list[TimestepRange] = instantiate_with(
        config["ranges"], num_timesteps=schedule.num_timesteps, schedule=schedule, affinity=affinity
    )
    return ranges


def _check_reliability(run: Run, found: Affinity) -> None:
    known = int((found.reliability >= LEAST_RELIABILITY).sum())
    total = len(found.reliability)
    text = f"two estimates of a bin's gradient agree to {float(found.reliability.median()):.2f} (median cosine)"
    run.log(f"{text}; {known} of {total} bins are known well enough")
    if known < total / 2:
        raise WorkFailed(
            f"the loss gradients are too noisy to find ranges: {known} of {total} bins are known well enough\n"
            f"type: ranges.num_images={4 * run.config['ranges']['num_images']} or more, or fewer ranges.num_bins"
        )


def affinity_forward_passes(run: Run) -> int:
    """Return what measuring affinities cost, in forward passes of one image."""
    ranges = run.config["ranges"]
    return (
        3 * ranges["num_bins"] * ranges["num_images"]
        if (run.path / "affinity.json").exists()
        else 0
    )


def range_of(config: dict[str, Any], ranges: list[TimestepRange]) -> TimestepRange:
    """Return the range that `expert` names, or all timesteps. Raises BadConfig."""
    if config["expert"] is None:
        if config["method"]["_target_"].endswith(".DeMe"):
            raise BadConfig(
                "method=deme trains one expert per run; say which\n"
                "type: expert=0, or all of them as jobs: deme train -m method=deme expert='range(4)'"
            )
        return TimestepRange(0, ranges[-1].high)
    if config["expert"] not in range(len(ranges)):
        raise BadConfig(
            f"expert={config['expert']}: with {len(ranges)} ranges it must lie in 0..{len(ranges) - 1}"
        )
    return ranges[config["expert"]]
