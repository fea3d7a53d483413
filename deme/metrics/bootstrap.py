"""Bootstrap resamples that depend on (seed, count) alone, so that replicates of two models pair."""

import torch
from torch import Tensor

from deme.diffusion import generator


def resampled_means(
    seed: int, values: Tensor, replicates: int, groups: Tensor | None = None
) -> list[float]:
    """Return the mean of `values` [M] in each of `replicates` bootstrap resamples.

    With `groups`, int64 [M], whole groups of values are resampled instead of single values.
    """
    sums, sizes = values, torch.ones_like(values)
    if groups is not None:
        _, places, counts = groups.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=values.dtype).index_add_(0, places, values)
        sizes = counts.to(values.dtype)
    resamples = (resample_counts(seed, r, len(sums)).to(values.dtype) for r in range(replicates))
    return [float(counts @ sums / (counts @ sizes)) for counts in resamples]


def resample_counts(seed: int, replicate: int, count: int) -> Tensor:
    """Return how often each of `count` items occurs in a resample, int64 [count]."""
    rows = torch.randint(count, (count,), generator=generator("bootstrap", seed, replicate, count))
    return torch.bincount(rows, minlength=count)
