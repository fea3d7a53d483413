"""The smallest magnitude among the largest ones, exactly, over more entries than are in memory at a time."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

HALF = 1 << 16  # values of half a float32

Vectors = Callable[
    [], Iterator[Sequence[Tensor]]
]  # pieces of N vectors; each call goes over all pieces again


def num_kept(num_entries: int, share: float) -> int:
    """Return how many entries a share keeps: the nearest whole number (a half to the even one), at least one."""
    return max(1, round(share * num_entries))


def cutoffs(vectors: Vectors, share: float) -> list[float]:
    """Return for each of N vectors its k-th largest magnitude, k = num_kept(entries, share); none if there are no pieces.

    Magnitudes are rounded to float32, whose bit patterns are ordered like their values: one pass counts the upper halves of
    the patterns, a second one the lower halves of those whose upper half is the k-th entry's. So 2^16 counters per vector
    are held, whatever the number of entries.
    """
    upper = _count(vectors, lambda bits, _: bits >> 16)
    if not upper:
        return []
    rank = num_kept(int(upper[0].sum()), share)
    heads = [_descend(counts, rank) for counts in upper]
    lower = _count(vectors, lambda bits, i: bits[bits >> 16 == heads[i][0]] & (HALF - 1))
    patterns = [
        (head << 16) + _descend(counts, left)[0]
        for (head, left), counts in zip(heads, lower, strict=True)
    ]
    return torch.tensor(patterns, dtype=torch.int32).view(torch.float32).tolist()


def keep(vector: Tensor, cutoff: float) -> Tensor:
    """Return `vector` with 0 for every entry whose magnitude, rounded to float32, is below `cutoff`."""
    return torch.where(vector.abs().float() >= cutoff, vector, 0.0)


def _count(vectors: Vectors, halves: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    counts: list[Tensor] = []
    for pieces in vectors():
        counts = counts or [torch.zeros(HALF, dtype=torch.int64) for _ in pieces]
        for i, piece in enumerate(pieces):
            bits = piece.reshape(-1).float().abs().view(torch.int32)
            counts[i] += halves(bits, i).bincount(minlength=HALF).cpu()
    return counts


def _descend(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the half of the entry of this rank, 1 for the largest, and the entry's rank among those with that half."""
    at_least = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, rank))
    above = int(at_least[place - 1]) if place else 0
    return HALF - 1 - place, rank - above
