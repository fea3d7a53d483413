"""Partitions of [0, T) into intervals of similar timesteps.

Go et al. 2023, section 4 (docs/method.md#clustering).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deme.diffusion.ranges import TimestepRange, from_boundaries, uniform
from deme.diffusion.schedule import NoiseSchedule

Affinity = Callable[[int, int, int], Tensor]


def interval_clustering(distance: Tensor, num_clusters: int) -> list[int]:
    """Return the num_clusters + 1 boundaries of the intervals of 0..n-1 of least total cost.

    `distance` [n, n] holds d(centre, member); an interval [low, high) costs the sum of its members'
    distances to its centre, floor((low + high) / 2). Exact, by dynamic programming over the last
    boundary, O(k n^2); of equally good solutions the one with the earliest boundaries. Raises
    ValueError unless 1 <= num_clusters <= n.
    """
    n = len(distance)
    if not 1 <= num_clusters <= n:
        raise ValueError(f"num_ranges must lie in 1..{n}, got {num_clusters}")
    prefix = torch.cat([torch.zeros(n, 1, dtype=torch.float64), distance.double().cumsum(1)], 1)
    low, high = torch.arange(n)[:, None], torch.arange(n + 1)[None, :]
    centre = ((low + high) // 2).clamp_max(n - 1)
    cost = prefix[centre, high] - prefix[centre, low]  # [low, high]
    cost[high.expand(n, -1) <= low] = torch.inf
    best = cost[0]  # of [0, high) in one interval
    lasts = []
    for _ in range(num_clusters - 1):
        best, last = (best[:n, None] + cost).min(0)
        lasts.append(last)
    boundaries = [n]
    for last in reversed(lasts):
        boundaries.append(int(last[boundaries[-1]]))
    return [0, *reversed(boundaries)]


def by_log_snr(num_ranges: int, schedule: NoiseSchedule) -> list[TimestepRange]:
    """Return the ranges whose log-SNRs differ least from their centre's, in absolute value."""
    level = schedule.snr.clamp(1e-100, 1e100).log()
    return from_boundaries(
        interval_clustering((level[:, None] - level[None, :]).abs(), num_ranges),
        schedule.num_timesteps,
    )


def by_affinity(
    num_ranges: int,
    num_timesteps: int,
    affinity: Affinity,
    num_bins: int = 40,
    num_images: int = 2048,
    seed: int = 0,
    path: str | None = None,
    saved_affinity: Callable[[str], Tensor] | None = None,
) -> list[TimestepRange]:
    """Return the ranges whose loss gradients agree most with their centre's.

    `affinity(num_bins, num_images, seed)` measures the cosines [num_bins, num_bins] between the
    loss gradients of equal bins of [0, T), each from `num_images` images; boundaries lie between
    bins. With `path`, `saved_affinity(path)` reads them instead, of as many bins as it has.
    """
    saved = saved_affinity(path) if path is not None and saved_affinity is not None else None
    num_bins = num_bins if saved is None else len(saved)
    if not 1 <= num_ranges <= num_bins <= num_timesteps:
        raise ValueError(
            f"need 1 <= num_ranges <= num_bins <= {num_timesteps} timesteps, "
            f"got {num_ranges} and {num_bins}"
        )
    edges = [0, *(item.high for item in uniform(num_bins, num_timesteps))]
    cosines = affinity(num_bins, num_images, seed) if saved is None else saved
    return from_boundaries(
        [edges[b] for b in interval_clustering(-cosines, num_ranges)], num_timesteps
    )
