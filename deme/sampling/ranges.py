"""Partitions of [0, T) in which a sampler takes equally many steps."""

import math
from collections.abc import Mapping

from deme.diffusion import TimestepRange
from deme.diffusion.ranges import from_boundaries
from deme.sampling.sampler import Sampler


def equal_sampler_steps(
    num_ranges: int, sampler: Sampler, num_timesteps: int, scheduler_config: Mapping[str, object]
) -> list[TimestepRange]:
    """Return `num_ranges` ranges whose numbers of steps of the sampler differ by at most one.

    A border lies half-way between two steps. Raises ValueError for fewer steps than ranges.
    """
    steps = sampler.steps(sampler.scheduler(scheduler_config), scheduler_config)
    places = sorted({step.t for step in steps})
    if len(places) < num_ranges:
        raise ValueError(f"{len(places)} steps of the sampler are too few for {num_ranges} ranges")
    firsts = [round(i * len(places) / num_ranges) for i in range(1, num_ranges)]
    borders = [math.ceil((places[first - 1] + places[first]) / 2) for first in firsts]
    return from_boundaries([0, *borders, num_timesteps], num_timesteps)
