"""KID against torchmetrics' polynomial MMD, and its standard error against the truth."""

import pytest
import torch

from deme.metrics import kernel_distance, resample_counts
from deme.system import NotFinite


def rows(n, seed, d=8, shift=0.0):
    return (
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + shift
    )


def test_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    x, y = rows(300, 0), rows(300, 1, shift=0.3)
    assert kernel_distance(x, y).value == pytest.approx(float(poly_mmd(y, x)), rel=1e-10)


def test_blocks_do_not_matter_and_sizes_may_differ(monkeypatch):
    x, y = rows(50, 0), rows(31, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("deme.metrics.kernel.BLOCK", 7)
    parts = kernel_distance(x, y)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    torch.testing.assert_close(parts.shares, whole.shares)
    k_xx, k_yy, k_xy = ((a @ b.T / 8 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    expected = (
        (k_xx.sum() - k_xx.trace()) / (50 * 49)
        + (k_yy.sum() - k_yy.trace()) / (31 * 30)
        - 2 * k_xy.mean()
    )
    assert whole.value == pytest.approx(float(expected), rel=1e-10)


def test_unbiased_at_equality():
    values = torch.tensor(
        [kernel_distance(rows(60, 2 * s), rows(40, 2 * s + 1)).value for s in range(400)]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    assert (
        float((values < 0).double().mean()) > 0.3
    )  # an estimate that could not be negative would be biased


@pytest.mark.parametrize(("shift", "low", "high"), [(0.5, 0.85, 1.15), (0.0, 0.7, 1.6)])
def test_the_standard_error_is_the_spread_over_new_samples(shift, low, high):
    found = [
        kernel_distance(rows(100, 2 * s), rows(100, 2 * s + 1, shift=shift)) for s in range(300)
    ]
    spread = float(torch.tensor([each.value for each in found]).std())
    claimed = float(torch.tensor([each.standard_error for each in found]).mean())
    assert low < claimed / spread < high


def test_shares_give_the_bootstrap_over_generated_images():
    x, y = rows(200, 0, shift=0.4), rows(200, 1)
    whole = kernel_distance(x, y)
    assert float(whole.shares.mean()) == pytest.approx(0, abs=1e-12)
    linear, exact = [], []
    for r in range(150):
        counts = resample_counts(0, r, 200)
        linear.append(whole.value + float(counts.double() @ whole.shares) / 200)
        k_xx, k_xy = (x @ x.T / 8 + 1) ** 3, (x @ y.T / 8 + 1) ** 3
        c = counts.double()
        own = (c @ k_xx @ c - c @ k_xx.diagonal()) / (200 * 199)
        k_yy = (y @ y.T / 8 + 1) ** 3
        exact.append(
            float(own + (k_yy.sum() - k_yy.trace()) / (200 * 199) - 2 * c @ k_xy.mean(1) / 200)
        )
    assert torch.corrcoef(torch.tensor([linear, exact]))[0, 1] > 0.98
    assert torch.tensor(linear).std() == pytest.approx(float(torch.tensor(exact).std()), rel=0.15)


def test_too_few_nan_or_other_features_are_refused():
    with pytest.raises(ValueError, match="got 1 and 5"):
        kernel_distance(rows(1, 0), rows(5, 1))
    with pytest.raises(ValueError, match="another extractor"):
        kernel_distance(rows(5, 0), rows(5, 1, d=9))
    with pytest.raises(NotFinite, match="NaN"):
        kernel_distance(rows(5, 0) * float("nan"), rows(5, 1))
