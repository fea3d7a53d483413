"""Is a merge more than a reweighting of timesteps? Continued finetuning with the weight that merging equals to first order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.errors import BadConfig
from deme.methods.finetune import Finetune
from deme.ranges import TimestepRange
from deme.timesteps import TimestepSampler


class Reweighted(Finetune):
    """One model, finetuned with Lambda(t) of the given merge weights on top of the weighting (METHOD 1.9, 9).

    `probability` is the experts' p of probabilistic sampling, `merge_weights` "uniform" or one number per range.
    """

    def __init__(
        self,
        weights: Tensor,
        timesteps: TimestepSampler,
        ranges: Sequence[TimestepRange],
        merge_weights: str | Sequence[float],
        probability: float,
    ) -> None:
        if merge_weights == "uniform":
            merge_weights = [1 / len(ranges)] * len(ranges)
        if isinstance(merge_weights, str) or not all(isinstance(w, (int, float)) for w in merge_weights):
            raise BadConfig(f"method.merge_weights must be 'uniform' or a list of numbers, got {merge_weights!r}")
        if len(merge_weights) != len(ranges):
            raise BadConfig(f"method.merge_weights: {len(merge_weights)} numbers for {len(ranges)} ranges")
        if not 0 <= probability <= 1:
            raise BadConfig(f"method.probability must lie in [0, 1], got {probability}")
        factor = merge_factor(ranges, merge_weights, probability)
        if bool((factor < 0).any()):
            raise BadConfig(
                f"merge weights {list(merge_weights)} stand for a negative loss weight at t = {int(factor.argmin())}; "
                "no finetuning does the same"
            )
        super().__init__(weights * factor, timesteps)


def merge_factor(ranges: Sequence[TimestepRange], merge_weights: Sequence[float], probability: float) -> Tensor:
    """Return Lambda(t) = (1 - p) T / |R_i(t)| w_i(t) + p sum_j w_j for every timestep, [T] float64."""
    num_timesteps = ranges[-1].high
    inside = [
        torch.full((len(r),), num_timesteps / len(r) * w, dtype=torch.float64)
        for r, w in zip(ranges, merge_weights, strict=True)
    ]
    return (1 - probability) * torch.cat(inside) + probability * sum(merge_weights)
