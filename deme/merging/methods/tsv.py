"""TSV-Merge: leading singular vectors of the experts, made orthogonal (Gargiulo et al. 2025)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.merging.geometry import displace
from deme.merging.methods import merge_method
from deme.merging.singular import as_matrix, orthogonalized, singular_vectors


@merge_method(paper="arXiv 2412.00081, algorithm 1", elementwise=False)
def tsv(experts: Sequence[Tensor], base: Tensor, scale: float = 1.0) -> Tensor:
    """Return base + scale * U diag(s) V^T, from 1/N of the singular vectors of every task vector.

    Each expert's task vector, as a matrix [out, in ...], keeps its min(out, in ...) / N largest
    singular values, at least one. U and V are the nearest matrices with orthonormal columns
    (Procrustes) to the left and right singular vectors of all experts beside each other;
    directions that experts share stay shared. Tensors of one dimension get scale times the mean of
    the task vectors.
    """
    if base.dim() < 2:
        return displace(experts, base, [scale / len(experts)] * len(experts))
    kept = max(1, min(as_matrix(base).shape) // len(experts))
    parts = [singular_vectors(as_matrix(expert - base), [expert, base]) for expert in experts]
    values = torch.cat([values[:kept] for _, values, _ in parts])
    if not len(values):
        return base
    left = orthogonalized(torch.cat([left[:, :kept] for left, _, _ in parts], 1))
    right = orthogonalized(torch.cat([right[:kept] for _, _, right in parts]).T)
    return base + scale * ((left * values) @ right.T).reshape(base.shape)
