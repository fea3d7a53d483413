"""Inner products of task vectors, and steps along them: what methods need that know task vectors by lengths and angles."""

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18  # entries of every expert that are held in float64 at a time


def gram(experts: Sequence[Tensor], base: Tensor) -> Tensor:
    """Return the inner products [N, N] of the task vectors expert - base, subtracted and summed in float64, on the CPU."""
    flat, start = [expert.reshape(-1) for expert in experts], base.reshape(-1)
    products = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for low in range(0, len(start), CHUNK_ELEMENTS):
        piece = slice(low, low + CHUNK_ELEMENTS)
        rows = torch.stack([expert[piece].double() for expert in flat]) - start[piece].double()
        products += (rows @ rows.T).cpu()
    return products


def cosines_of(products: Tensor) -> Tensor:
    """Return the cosines [N, N] of vectors with these inner products; a zero vector has cosine 0 with everything."""
    lengths = products.diagonal().sqrt()
    return torch.where(products != 0, products / torch.outer(lengths, lengths), 0.0).clamp(-1, 1)


def displace(experts: Sequence[Tensor], base: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return base + sum c_i (expert_i - base).

    Differences come first: coefficients far from a mean's then do not multiply the rounding of the base. Where all are 0, the
    base comes back bit for bit.
    """
    terms = [c * (expert - base) for c, expert in zip(coefficients, experts, strict=True) if c != 0]
    return base + sum(terms[1:], terms[0]) if terms else base
