"""Bootstrap replicates whose resamples depend on (seed, count) alone, so that two models' replicates are paired."""

import torch
from torch import Tensor

from deme.seeds import generator


def resampled_means(seed: int, values: Tensor, replicates: int) -> list[float]:
    """Return the mean of `values` [M] in each of so many resamples."""
    count = len(values)
    return [float(resample_counts(seed, r, count).double() @ values / count) for r in range(replicates)]


def resample_counts(seed: int, replicate: int, count: int) -> Tensor:
    """Return how often each of `count` items occurs in bootstrap resample number `replicate`, int64 [count]."""
    rows = torch.randint(count, (count,), generator=generator("bootstrap", seed, replicate, count))
    return torch.bincount(rows, minlength=count)
