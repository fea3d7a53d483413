"""Iso-C: set all singular values of the summed task vectors to their mean (Marczak et al. 2025)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.merging.geometry import displace
from deme.merging.methods import merge_method
from deme.merging.singular import as_matrix, singular_vectors


@merge_method(
    paper="arXiv 2502.04959, isotropic merging in the common subspace",
    elementwise=False,
    equal_singular_values=True,
)
def iso_c(experts: Sequence[Tensor], base: Tensor, scale: float = 1.0) -> Tensor:
    """Return base + scale * mean(s) U V^T, where U diag(s) V^T is the sum of the task vectors.

    A tensor [out, in, ...] is the matrix [out, in ...]; the mean is over the singular values that
    are not 0 (published code: over all; the two differ for sums without full rank). Tensors of one
    dimension get scale times the mean of the task vectors.
    """
    if base.dim() < 2:
        return displace(experts, base, [scale / len(experts)] * len(experts))
    total = torch.stack([expert - base for expert in experts]).sum(0)
    left, values, right = singular_vectors(as_matrix(total), [*experts, base])
    if not len(values):
        return base
    return base + scale * values.mean() * (left @ right).reshape(base.shape)
