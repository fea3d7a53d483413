"""The mathematics of diffusion: schedules, ranges of timesteps, weightings, seeds."""

from deme.diffusion.conditioning import (
    EMPTY_CONDITION,
    MASK,
    MASKED_LATENTS,
    TEXT,
    Condition,
    Network,
    bind_condition,
    joined,
    moved,
    repeated,
    rows_of,
)
from deme.diffusion.ranges import TimestepRange, check_partition, uniform
from deme.diffusion.schedule import PREDICTION_TYPES, FlowSchedule, NoiseSchedule
from deme.diffusion.seeds import ShardedRandom, generator, image_generator, seeded
from deme.diffusion.timesteps import RangeSampler, StratifiedSampler, TimestepSampler

__all__ = [
    "EMPTY_CONDITION",
    "MASK",
    "MASKED_LATENTS",
    "PREDICTION_TYPES",
    "TEXT",
    "Condition",
    "FlowSchedule",
    "Network",
    "NoiseSchedule",
    "RangeSampler",
    "ShardedRandom",
    "StratifiedSampler",
    "TimestepRange",
    "TimestepSampler",
    "bind_condition",
    "check_partition",
    "generator",
    "image_generator",
    "joined",
    "moved",
    "repeated",
    "rows_of",
    "seeded",
    "uniform",
]
