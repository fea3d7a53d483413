"""The paper's merge (section 3.3, eq. 8): theta + sum_i w_i (theta_i - theta)."""

from collections.abc import Sequence

from torch import Tensor

from deme.merging.methods import merge_method


@merge_method(paper="arXiv 2410.06664, eq. 8", elementwise=True)
def weighted_sum(experts: Sequence[Tensor], base: Tensor, weights: Sequence[float]) -> Tensor:
    """Return (1 - sum w) base + sum w_i expert_i.

    Terms of weight 0 are left out, so that w = 0 gives the base and a one-hot w = 1 its expert, bit
    for bit.
    """
    terms = [
        (w, t) for w, t in ((1 - sum(weights), base), *zip(weights, experts, strict=True)) if w != 0
    ]
    if not terms:
        return base
    (first, tensor), *others = terms
    merged = first * tensor
    for weight, tensor in others:
        merged.add_(tensor, alpha=weight)  # one pass and no copy per expert
    return merged
