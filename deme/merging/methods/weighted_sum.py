"""The paper's merge (section 3.3, eq. 8): theta + sum_i w_i (theta_i - theta)."""

from collections.abc import Sequence

from torch import Tensor

from deme.merging.methods import merge_method


@merge_method(paper="arXiv 2410.06664, eq. 8", elementwise=True)
def weighted_sum(experts: Sequence[Tensor], base: Tensor, weights: Sequence[float]) -> Tensor:
    """Return (1 - sum w) base + sum w_i expert_i.

    Terms of weight 0 are left out, so that w = 0 gives the base and a one-hot w = 1 its expert, bit for bit.
    """
    terms = [(1 - sum(weights), base), *zip(weights, experts, strict=True)]
    merged: Tensor | None = None
    for weight, tensor in terms:
        if weight != 0:
            term = tensor if weight == 1 else weight * tensor
            merged = term if merged is None else merged + term
    return base if merged is None else merged
