"""Inner products and linear combinations of task vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18  # entries of every expert that are in memory in float64 at a time


def gram(experts: Sequence[Tensor], base: Tensor) -> Tensor:
    """Return the inner products [N, N] of the task vectors expert - base, computed in float64."""
    flat, start = [expert.reshape(-1) for expert in experts], base.reshape(-1)
    products = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for low in range(0, len(start), CHUNK_ELEMENTS):
        piece = slice(low, low + CHUNK_ELEMENTS)
        rows = torch.stack([expert[piece].double() for expert in flat]) - start[piece].double()
        products += (rows @ rows.T).cpu()
    return products


def cosines_of(products: Tensor) -> Tensor:
    """Return the cosines [N, N] of vectors with these inner products; 0 for a zero vector."""
    lengths = products.diagonal().sqrt()
    return torch.where(products != 0, products / torch.outer(lengths, lengths), 0.0).clamp(-1, 1)


def displace(experts: Sequence[Tensor], base: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return base + sum c_i (expert_i - base).

    Differences are taken first, so that large coefficients do not multiply the rounding error of
    the base. If all coefficients are 0, the base is returned bit for bit.
    """
    terms = [c * (expert - base) for c, expert in zip(coefficients, experts, strict=True) if c != 0]
    return base + sum(terms[1:], terms[0]) if terms else base
