"""Interval clustering: the reference boundaries, brute force, and what cannot be partitioned (docs/method.md)."""

import itertools

import pytest
import torch

from deme.diffusion import NoiseSchedule, check_partition, uniform
from deme.diffusion.clustering import by_affinity, by_log_snr, interval_clustering

LINEAR = NoiseSchedule.linear()
SCALED_LINEAR = NoiseSchedule.variance_preserving(
    (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
)


def boundaries(ranges):
    return [0, *(item.high for item in ranges)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LINEAR, [0, 569, 1000]),
        (LINEAR, [0, 221, 522, 779, 1000]),
        (LINEAR, [0, 153, 394, 624, 823, 1000]),
        (LINEAR, [0, 67, 188, 341, 496, 639, 768, 887, 1000]),
        (SCALED_LINEAR, [0, 531, 1000]),
        (SCALED_LINEAR, [0, 211, 500, 771, 1000]),
        (SCALED_LINEAR, [0, 149, 372, 605, 816, 1000]),
        (SCALED_LINEAR, [0, 69, 184, 325, 476, 623, 760, 885, 1000]),
    ],
)
def test_log_snr_boundaries_of_the_two_usual_schedules(schedule, expected):
    assert boundaries(by_log_snr(len(expected) - 1, schedule)) == expected


def distance(levels):
    return (levels[:, None] - levels[None, :]).abs()


def cost(matrix, edges):
    return sum(
        float(matrix[(low + high) // 2, low:high].sum()) for low, high in itertools.pairwise(edges)
    )


def test_equal_ranges_are_the_best_by_timestep_and_raw_snr_degenerates():
    by_timestep = distance(torch.arange(1000).double())
    best = cost(by_timestep, interval_clustering(by_timestep, 5))
    assert best == 50_000
    assert cost(by_timestep, boundaries(uniform(5, 1000))) == best
    assert interval_clustering(distance(LINEAR.snr), 5) == [0, 1, 2, 5, 18, 1000]


@pytest.mark.parametrize("k", range(1, 8))
def test_dynamic_programming_is_as_good_as_trying_everything(k):
    for seed in range(5):
        matrix = torch.randn(
            7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        found = interval_clustering(matrix, k)
        assert found[0] == 0
        assert found[-1] == 7
        assert len(found) == k + 1
        tried = [
            cost(matrix, (0, *inner, 7)) for inner in itertools.combinations(range(1, 7), k - 1)
        ]
        assert cost(matrix, found) == pytest.approx(min(tried))


def test_gradient_ranges_find_the_blocks_of_agreeing_timesteps():
    blocks = [3, 8, 20, 40]
    owner = torch.tensor([next(i for i, end in enumerate(blocks) if b < end) for b in range(40)])
    asked = []

    def affinity(num_bins, num_images, seed):
        asked.append((num_bins, num_images, seed))
        return torch.where(owner[:, None] == owner, 0.9, -0.2).fill_diagonal_(1)

    ranges = by_affinity(4, 1000, affinity, num_bins=40, num_images=64, seed=5)
    assert boundaries(ranges) == [0, *(25 * end for end in blocks)]
    assert asked == [(40, 64, 5)]


@pytest.mark.parametrize("k", [0, 11])
def test_more_ranges_than_timesteps_are_refused(k):
    short = NoiseSchedule.linear(10)
    with pytest.raises(ValueError, match=r"num_ranges must lie in 1\.\.10.*got"):
        by_log_snr(k, short)
    with pytest.raises(ValueError, match=r"num_ranges must lie in 1\.\.10"):
        uniform(k, 10)
    check_partition(by_log_snr(10, short), 10)


@pytest.mark.parametrize(("k", "bins"), [(5, 4), (0, 4), (2, 20)])
def test_more_ranges_than_bins_or_bins_than_timesteps_are_refused_before_measuring(k, bins):
    with pytest.raises(ValueError, match="need 1 <= num_ranges <= num_bins <= 10 timesteps"):
        by_affinity(k, 10, None, num_bins=bins)
