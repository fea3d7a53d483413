"""Partitions of [0, T) at noise levels sigma_t; in flow matching sigma_t is s_t."""

from collections.abc import Sequence

import torch

from deme.diffusion.ranges import TimestepRange, from_boundaries
from deme.diffusion.schedule import NoiseSchedule


def from_levels(levels: Sequence[float], schedule: NoiseSchedule) -> list[TimestepRange]:
    """Return the ranges between N + 1 noise levels, the first 0 and the last 1.

    A timestep whose sigma is a boundary belongs to the range above it. Raises ValueError for levels
    that do not rise from 0 to 1, and for a range without a timestep.
    """
    values = [float(level) for level in levels]
    if values[0] != 0 or values[-1] != 1 or sorted({*values}) != values:
        raise ValueError(f"ranges.levels must rise from 0 to 1, got {values}")
    inner = torch.tensor(values[1:-1], dtype=torch.float64)
    borders = torch.searchsorted(schedule.sigma, inner * (1 - 1e-12)).tolist()
    ends = [0, *borders, schedule.num_timesteps]
    if sorted({*ends}) != ends:
        raise ValueError(
            f"no timestep lies between two of the noise levels {values}; sigma goes from "
            f"{float(schedule.sigma[0]):.4g} to {float(schedule.sigma[-1]):.4g}"
        )
    return from_boundaries(ends, schedule.num_timesteps)


def equal_levels(num_ranges: int, schedule: NoiseSchedule) -> list[TimestepRange]:
    """Return the ranges between `num_ranges` + 1 equally spaced noise levels."""
    return from_levels([i / num_ranges for i in range(num_ranges + 1)], schedule)
