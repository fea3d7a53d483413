"""Singular vectors of task vectors, which are differences of rounded weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a tensor [out, in, ...] as the matrix [out, in ...]."""
    return tensor.reshape(len(tensor), -1)


def singular_vectors(matrix: Tensor, rounded: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [m, r], s [r] and V^T [r, n] of a matrix [m, n], without singular values of 0.

    `rounded` are the tensors that the matrix is a difference or sum of: singular values no larger
    than the rounding error of these tensors count as 0. So a LoRA that was added to its base still
    has its rank, also where the sum was stored in half precision.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    largest = max(float(tensor.abs().max()) for tensor in rounded)
    noise = len(rounded) * largest * sum(map(math.sqrt, matrix.shape))  # of a random matrix
    limit = max(
        max(map(_rounding, rounded)) * noise,
        torch.finfo(matrix.dtype).eps * float(values[0]) * max(matrix.shape),
    )
    rank = int((values > limit).sum())
    return left[:, :rank], values[:rank], right[:rank]


def _rounding(tensor: Tensor) -> float:
    """Return the machine epsilon of the smallest data type that holds a tensor's values exactly."""
    if not bool(tensor.any()):
        return 0.0  # the base of changes that were never added to one
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
            return torch.finfo(dtype).eps
    return torch.finfo(tensor.dtype).eps


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return the matrix [m, n] with orthonormal columns nearest to a matrix [m, n] (Procrustes).

    Where columns are dependent (experts that share a direction) no such matrix is unique; it is
    then the polar factor of the same rank, so that columns that are equal stay equal.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > math.sqrt(torch.finfo(matrix.dtype).eps)).sum())
    return left[:, :rank] @ right[:rank]
