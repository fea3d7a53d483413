"""DARE: drop entries of the task vectors at random and rescale the others (Yu et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.diffusion import generator
from deme.merging.methods import merge_method
from deme.merging.methods.weighted_sum import weighted_sum
from deme.system import BadConfig


@merge_method(paper="arXiv 2311.03099", elementwise=False, named=True)
def dare(
    experts: Sequence[Tensor],
    base: Tensor,
    weights: Sequence[float],
    drop: float = 0.5,
    seed: int = 0,
    *,
    name: str,
) -> Tensor:
    """Return base + sum w_i m_i (expert_i - base) / (1 - drop), where each m_i is 0 or 1.

    Every entry of m_i is 0 with probability `drop`. The mask is a function of the seed, the name of
    the tensor and the position of the expert, and is generated on the CPU: neither the order of the
    tensors nor the device matters. drop = 0 is the weighted sum, bit for bit. Raises BadConfig for
    another `drop`.
    """
    if not 0 <= drop < 1:
        raise BadConfig(
            f"merge.drop={drop} is not the probability of dropping an entry\n"
            "allowed: from 0 (drop none) to below 1; type: merge.drop=0.5"
        )
    if drop == 0:
        return weighted_sum(experts, base, weights)
    thinned = []
    for position, expert in enumerate(experts):
        draws = torch.rand(base.shape, generator=generator("dare", seed, name, position))
        kept = (draws >= drop).to(base.device)
        thinned.append(torch.where(kept, base + (expert - base) / (1 - drop), base))
    return weighted_sum(thinned, base, weights)
