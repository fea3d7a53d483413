"""Merging LoRA adapters: in the space of their changes B A, never of the factors themselves.

The sum of the factors is not the sum of the changes: it has the products of every expert's B with
every other expert's A in it. So a weighted sum of changes is written either as it is, with the
ranks added up (`cat`), or as the best approximation of a smaller rank (`svd`, Eckart and Young
1936), which is found without making the changes: by QR decompositions of the stacked factors and
the SVD of a small matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]  # A [r, in, ...] and B [out, r, ...]


@dataclass(frozen=True)
class MergedLayer:
    """The factors of a merged layer, the squared norms of its whole change and of what is dropped.

    The change is that before its rank was reduced.
    """

    factors: Factors
    norm: float
    dropped: float


def concatenate_factors(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return factors of sum_i w_i B_i A_i, exactly; their rank is the sum of the ranks."""
    down = torch.cat([down for down, _ in parts])
    up = torch.cat([weight * up for (_, up), weight in zip(parts, weights, strict=True)], 1)
    return down, up


def truncate_rank(factors: Factors, rank: int) -> MergedLayer:
    """Return the best approximation of B A by a smaller rank, in the Frobenius norm.

    Both factors have the singular values' square roots. Convolutions are matrices [out, in kh kw].
    """
    down, up = factors
    flat_down, flat_up = down.reshape(len(down), -1), up.reshape(len(up), -1)
    left, inner_left = torch.linalg.qr(flat_up)
    right, inner_right = torch.linalg.qr(flat_down.T)
    u, values, vh = torch.linalg.svd(inner_left @ inner_right.T, full_matrices=False)
    return _cut(left @ u, values, vh @ right.T, rank, down, up)


def low_rank_factors(change: Tensor, rank: int) -> MergedLayer:
    """Return the best approximation of a change [out, in, ...] by factors of a rank."""
    flat = change.reshape(len(change), -1)
    u, values, vh = torch.linalg.svd(flat, full_matrices=False)
    down = change.new_empty(1, *change.shape[1:])
    up = change.new_empty(len(change), 1, *[1] * (change.ndim - 2))
    return _cut(u, values, vh, rank, down, up)


def _cut(u: Tensor, values: Tensor, vh: Tensor, rank: int, down: Tensor, up: Tensor) -> MergedLayer:
    """Keep `rank` singular values; the factors have the shapes of `down` and `up` but for it."""
    kept, roots = min(rank, len(values)), values.clamp_min(0).sqrt()
    new_down = torch.zeros(rank, vh.shape[1], dtype=vh.dtype)
    new_up = torch.zeros(len(u), rank, dtype=u.dtype)
    new_down[:kept] = roots[:kept, None] * vh[:kept]
    new_up[:, :kept] = u[:, :kept] * roots[:kept]
    squares = values.double().square()
    return MergedLayer(
        (new_down.reshape(rank, *down.shape[1:]), new_up.reshape(len(u), rank, *up.shape[2:])),
        float(squares.sum()),
        float(squares[kept:].sum()),
    )
