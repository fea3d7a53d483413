"""Our Frechet distance against two other implementations."""

import warnings

import pytest
import torch

from deme.metrics import FrechetDistance, Statistics


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
        expected = frechet_distance(
            a.mean.numpy(), a.covariance.numpy(), b.mean.numpy(), b.covariance.numpy()
        )
    assert FrechetDistance(b)(a) == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    x, y = sets()
    a, b = Statistics().update(x), Statistics().update(y)
    expected = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert FrechetDistance(b)(a) == pytest.approx(expected, rel=1e-9)


def svd_reference(x, y):
    """tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T, centred rows over sqrt(n - 1): nothing is squared."""
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float(
        (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    )


@pytest.mark.parametrize("n", [10, 60, 127])
def test_few_images_are_exact_and_equal_the_singular_values(n):
    x, y = sets(2000, 128)
    x = x[:n] * 3
    distance, expected = FrechetDistance(Statistics().update(y)), svd_reference(x, y)
    assert distance.of_features(x) == pytest.approx(expected, rel=1e-12)
    assert distance(Statistics().update(x)) == pytest.approx(expected, rel=1e-7)


def test_blocks_of_a_triangular_product_do_not_matter(monkeypatch):
    rows, _ = sets(500, 48)
    x, y = (Statistics().update(each) for each in sets(500, 48))
    whole, few = FrechetDistance(y)(x), FrechetDistance(y).of_features(rows[:40])
    monkeypatch.setattr("deme.metrics.frechet.BLOCK", 7)
    assert FrechetDistance(y).triangular
    assert FrechetDistance(y)(x) == pytest.approx(whole, rel=1e-12)
    assert FrechetDistance(y).of_features(rows[:40]) == pytest.approx(few, rel=1e-12)


def test_counted_rows_are_repeated_rows():
    x, y = sets(300, 64)
    x = x[:40]
    counts = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    distance = FrechetDistance(Statistics().update(y))
    repeated = x.repeat_interleave(counts, 0)
    assert distance.of_features(x, counts) == pytest.approx(svd_reference(repeated, y), rel=1e-9)
    assert distance(Statistics().update(x, counts)) == pytest.approx(
        svd_reference(repeated, y), rel=1e-7
    )


def test_closed_form_gaussians_with_correlations():
    """N(0, A A^T) and N(m, (A D)(A D)^T) for a symmetric A and commuting covariances: sum (a - b)^2 over axes."""
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(24, 24, generator=g, dtype=torch.float64))
    one, two = torch.rand(2, 24, generator=g, dtype=torch.float64) + 0.1
    shift = torch.randn(24, generator=g, dtype=torch.float64)
    a = Statistics.given(100, torch.zeros(24).double(), q @ one.square().diag() @ q.T)
    b = Statistics.given(100, shift, q @ two.square().diag() @ q.T)
    expected = float(shift.square().sum() + (one - two).square().sum())
    assert FrechetDistance(a)(b) == pytest.approx(expected, rel=1e-12)


def test_dead_features_and_few_reference_images_do_no_harm():
    x, y = sets(500, 32)
    dead = torch.cat([y[:, :20], torch.zeros(500, 12)], 1)
    for reference, generated in ((dead, x), (x, dead), (dead, dead), (y[:10], x), (y[:10], x[:7])):
        distance = FrechetDistance(Statistics().update(reference))
        expected = svd_reference(generated, reference)
        tolerance = 1e-7 * float(generated.var(0).sum() + reference.var(0).sum())
        assert distance(Statistics().update(generated)) == pytest.approx(expected, abs=tolerance)


def test_resamples_of_one_image_and_constant_sets_have_a_distance():
    x, y = sets(50, 8)
    distance = FrechetDistance(Statistics().update(y))
    counts = torch.tensor([3, 0])
    expected = float((x[0] - y.mean(0)).square().sum() + torch.cov(y.T).trace())
    assert distance.of_features(x[:2], counts) == pytest.approx(expected, rel=1e-12)
    assert distance(Statistics().update(x[:1].expand(5, -1))) == pytest.approx(expected, rel=1e-12)
    constant = FrechetDistance(Statistics().update(y[:1].expand(5, -1)))
    expected = float((x.mean(0) - y[0]).square().sum() + torch.cov(x.T).trace())
    assert constant(Statistics().update(x)) == pytest.approx(expected, rel=1e-12)
    assert constant.of_features(x) == pytest.approx(expected, rel=1e-12)


def test_what_is_no_covariance_is_refused():
    for wrong in (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])):
        with pytest.raises(ValueError, match="covariance"):
            Statistics.given(10, torch.zeros(2), wrong.double())


def test_features_of_another_extractor_are_refused():
    x, y = sets(50, 8)
    distance = FrechetDistance(Statistics().update(y))
    with pytest.raises(
        ValueError,
        match="7 features per image, 8 in the reference",
    ):
        distance(Statistics().update(x[:, :7]))
    with pytest.raises(ValueError, match="another extractor"):
        distance.of_features(x[:, :7])
