"""LCSC: a weighted mean of checkpoints in which weights may be negative (Liu et al. 2024)."""

from collections.abc import Sequence

from torch import Tensor

from deme.merging.methods import merge_method
from deme.system import BadConfig

TOLERANCE = 1e-6  # how far the sum of the weights may be from 1


@merge_method(paper="arXiv 2404.02241", elementwise=True, of="checkpoints")
def linear(
    experts: Sequence[Tensor],
    base: Tensor,  # noqa: ARG001
    weights: Sequence[float],
) -> Tensor:
    """Return sum_k alpha_k theta_k for weights alpha that sum to 1; the base takes no part.

    Terms of weight 0 are left out, so that a one-hot weight vector gives its checkpoint bit for
    bit. Raises BadConfig for weights of another sum.
    """
    if not abs(sum(weights) - 1) <= TOLERANCE:
        raise BadConfig(
            f"merge=linear needs weights that sum to 1; {list(weights)} sum to {sum(weights):.6g}\n"
            "for a sum of task vectors with any weights, type: merge=weighted_sum"
        )
    terms = [(w, tensor) for w, tensor in zip(weights, experts, strict=True) if w != 0]
    (first, tensor), *others = terms  # weights that sum to 1 are not all 0
    mean = first * tensor
    for weight, tensor in others:
        mean.add_(weight * tensor)  # not add_(alpha=), which rounds otherwise
    return mean
