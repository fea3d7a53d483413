"""The exact k-th largest magnitude of vectors that do not fit into memory."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

HALF = 1 << 16  # number of values of one half of a float32

# Iterate over pieces of N vectors; each call starts anew.
Vectors = Callable[[], Iterator[Sequence[Tensor]]]


def cutoffs(vectors: Vectors, share: float) -> list[float]:
    """Return the k-th largest magnitude of each of N vectors, k = round(share * entries) >= 1.

    A half is rounded to the even number. Magnitudes are rounded to float32, whose bit patterns are
    ordered like their values: one pass counts the upper halves of the patterns, a second one the
    lower halves of those whose upper half is that of the k-th entry. This needs 2^16 counters per
    vector, whatever the number of entries. Returns [] if there are no pieces.
    """
    upper = _count(vectors, lambda bits, _: bits >> 16)
    if not upper:
        return []
    rank = max(1, round(share * int(upper[0].sum())))
    heads = [_descend(counts, rank) for counts in upper]
    lower = _count(vectors, lambda bits, i: bits[bits >> 16 == heads[i][0]] & (HALF - 1))
    patterns = [
        (head << 16) + _descend(counts, left)[0]
        for (head, left), counts in zip(heads, lower, strict=True)
    ]
    return torch.tensor(patterns, dtype=torch.int32).view(torch.float32).tolist()


def _count(vectors: Vectors, halves: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    counts: list[Tensor] = []
    for pieces in vectors():
        counts = counts or [torch.zeros(HALF, dtype=torch.int64) for _ in pieces]
        for i, piece in enumerate(pieces):
            bits = piece.reshape(-1).float().abs().view(torch.int32)
            counts[i] += halves(bits, i).bincount(minlength=HALF).cpu()
    return counts


def _descend(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the half of the entry with this rank (1: largest), and its rank within that half."""
    at_least = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, rank))
    above = int(at_least[place - 1]) if place else 0
    return HALF - 1 - place, rank - above
