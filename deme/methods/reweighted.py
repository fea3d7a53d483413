"""Is a merge more than a reweighting of timesteps? The control: finetune with its loss weight.

To first order, a merge of experts equals continued finetuning with the weight Lambda(t).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.diffusion import RangeSampler, TimestepRange, TimestepSampler
from deme.methods.finetune import Finetune
from deme.system import BadConfig


class Reweighted(Finetune):
    """One model, finetuned with Lambda(t) on top of the weighting (docs/method.md#reweighting).

    `probability` is the experts' p of probabilistic sampling, `merge_weights` "uniform" or one
    number per range.
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
        if not isinstance(merge_weights, list) or not all(
            type(weight) in (int, float) for weight in merge_weights
        ):
            raise BadConfig(
                "method.merge_weights must be 'uniform' or a list of numbers, "
                f"got {merge_weights!r}"
            )
        if len(merge_weights) != len(ranges):
            raise BadConfig(
                f"method.merge_weights: {len(merge_weights)} numbers for {len(ranges)} ranges"
            )
        if type(probability) not in (int, float) or not 0 <= probability <= 1:
            raise BadConfig(f"method.probability must lie in [0, 1], got {probability!r}")
        everything = TimestepRange(0, ranges[-1].high)
        if not isinstance(timesteps, RangeSampler) or timesteps.range != everything:
            raise BadConfig(
                "method=reweighted takes timesteps that are uniform over all of [0, T)\n"
                "type: timesteps=uniform expert=null"
            )
        factor = merge_factor(ranges, merge_weights, probability)
        if bool((factor < 0).any()) or not bool(factor.any()):
            raise BadConfig(
                f"merge weights {merge_weights} are equal to a loss weight of {factor.min():g} at "
                f"t = {int(factor.argmin())}; no finetuning does the same"
            )
        super().__init__(weights * factor, timesteps)


def merge_factor(
    ranges: Sequence[TimestepRange], merge_weights: Sequence[float], probability: float
) -> Tensor:
    """Return Lambda(t) = (1 - p) T / |R_i(t)| w_i(t) + p sum_j w_j for every t, [T] float64."""
    num_timesteps = ranges[-1].high
    inside = [
        torch.full((len(r),), num_timesteps / len(r) * w, dtype=torch.float64)
        for r, w in zip(ranges, merge_weights, strict=True)
    ]
    return (1 - probability) * torch.cat(inside) + probability * sum(merge_weights)
