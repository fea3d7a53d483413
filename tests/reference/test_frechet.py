"""Our Frechet distance against two other implementations."""

import warnings

import pytest
import torch

from deme.metrics.frechet import FrechetDistance
from deme.metrics.statistics import Statistics


def sets(n=2000, d=32):
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.randn(
        n, d, generator=g, dtype=torch.float64
    ) @ mix + 1


def test_equals_clean_fids():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid imports and calls deprecated functions
        from cleanfid.fid import frechet_distance

        x, y = sets()
        a, b = Statistics().update(x), Statistics().update(y)
        expected = frechet_distance(a.mean.numpy(), a.covariance.numpy(), b.mean.numpy(), b.covariance.numpy())
    assert FrechetDistance(b)(a) == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    x, y = sets()
    a, b = Statistics().update(x), Statistics().update(y)
    expected = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert FrechetDistance(b)(a) == pytest.approx(expected, rel=1e-9)
