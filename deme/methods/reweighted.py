"""Is a merge more than a reweighting of timesteps? Continued finetuning with the weight that merging equals to first order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.diffusion.ranges import TimestepRange
from deme.diffusion.timesteps import RangeSampler, TimestepSampler
from deme.methods.finetune import Finetune
from deme.system.errors import BadConfig


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
        numbers = _numbers(merge_weights, len(ranges))
        if len(numbers) != len(ranges):
            raise BadConfig(
                f"method.merge_weights: {len(numbers)} numbers for {len(ranges)} ranges"
            )
        if type(probability) not in (int, float) or not 0 <= probability <= 1:
            raise BadConfig(f"method.probability must lie in [0, 1], got {probability!r}")
        if not isinstance(timesteps, RangeSampler) or timesteps.range != TimestepRange(
            0, ranges[-1].high
        ):
            raise BadConfig(
                "method=reweighted weighs timesteps that are uniform over all of [0, T)\ntype: timesteps=uniform expert=null"
            )
        factor = merge_factor(ranges, numbers, probability)
        if bool((factor < 0).any()) or not bool(factor.any()):
            raise BadConfig(
                f"merge weights {numbers} stand for a loss weight of {factor.min():g} at t = {int(factor.argmin())}; "
                "no finetuning does the same"
            )
        super().__init__(weights * factor, timesteps)


def _numbers(merge_weights: str | Sequence[float], num_ranges: int) -> list[float]:
    if merge_weights == "uniform":
        return [1 / num_ranges] * num_ranges
    if not isinstance(merge_weights, list) or not all(
        type(w) in (int, float) for w in merge_weights
    ):
        raise BadConfig(
            f"method.merge_weights must be 'uniform' or a list of numbers, got {merge_weights!r}"
        )
    return merge_weights


def merge_factor(
    ranges: Sequence[TimestepRange], merge_weights: Sequence[float], probability: float
) -> Tensor:
    """Return Lambda(t) = (1 - p) T / |R_i(t)| w_i(t) + p sum_j w_j for every timestep, [T] float64."""
    num_timesteps = ranges[-1].high
    inside = [
        torch.full((len(r),), num_timesteps / len(r) * w, dtype=torch.float64)
        for r, w in zip(ranges, merge_weights, strict=True)
    ]
    return (1 - probability) * torch.cat(inside) + probability * sum(merge_weights)
