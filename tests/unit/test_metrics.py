import numpy as np
import pytest
import torch

from deme.data import InMemoryImages
from deme.data.pixels import to_float, to_uint8
from deme.diffusion import NoiseSchedule, uniform
from deme.metrics import (
    FrechetDistance,
    Statistics,
    denoising_loss,
    fixed_triples,
    resample_counts,
    resampled_means,
)
from deme.system import NotFinite


def features(n=500, d=6, seed=0, offset=0.0):
    return offset + torch.randn(
        n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_statistics_equal_numpys():
    x = features(offset=1e4)
    s = Statistics().update(x)
    np.testing.assert_allclose(s.mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(s.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-12)


def test_shards_equal_the_whole():
    x = features(offset=100)
    whole, left, right = Statistics().update(x), Statistics().update(x[:123]), Statistics()
    for batch in x[123:].split(50):
        right.update(batch)
    left.merge(right)
    assert left.count == whole.count == 500
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(left.covariance, whole.covariance, rtol=1e-10, atol=1e-13)


def test_weights_count_rows_several_times():
    x = features(40)
    counts = resample_counts(0, 0, 40)
    assert int(counts.sum()) == 40
    repeated = x.repeat_interleave(counts, 0)
    torch.testing.assert_close(
        Statistics().update(x, counts).covariance, Statistics().update(repeated).covariance
    )


def test_too_few_or_nan_features_are_refused():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = Statistics().update(features(1)).covariance
    with pytest.raises(ValueError, match="no images"):
        _ = Statistics().mean
    with pytest.raises(NotFinite, match="NaN"):
        Statistics().update(torch.tensor([[float("nan")]]))


def test_distance_of_a_set_to_itself_is_zero():
    s = Statistics().update(features())
    assert FrechetDistance(s)(s) == pytest.approx(0, abs=1e-10)


def test_distance_of_known_gaussians():
    # exact moments by whitening: N(0, I) and N(m, diag(v)) have |m|^2 + sum (1 - sqrt v)^2
    x = features()
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    scale, shift = torch.tensor([1.0, 2, 3, 0.5, 1, 4]).double(), torch.arange(6).double()
    expected = float(shift.square().sum() + (1 - scale).square().sum())
    distance = FrechetDistance(Statistics().update(white))
    assert distance(Statistics().update(white * scale + shift)) == pytest.approx(expected, rel=1e-9)


def test_distance_is_symmetric_and_grows_with_noise():
    x, y = features(seed=1), 1.5 * features(seed=2)
    a, b = Statistics().update(x), Statistics().update(y)
    assert FrechetDistance(a)(b) == pytest.approx(FrechetDistance(b)(a), rel=1e-9)
    noisy = [
        FrechetDistance(a)(Statistics().update(x + s * features(seed=3))) for s in (0.1, 0.5, 1.0)
    ]
    assert noisy == sorted(noisy)


def test_uint8_round_trip_and_rounding():
    pixels = torch.arange(256).byte()
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_uint8(torch.tensor([-3.0, -1, 0.0, 1, 7])).tolist() == [0, 0, 128, 255, 255]


SCHEDULE = NoiseSchedule.linear()
HELD_OUT = InMemoryImages(
    torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)


def test_loss_of_a_perfect_network_is_zero_and_of_a_silent_one_is_one():
    triples = fixed_triples(HELD_OUT, uniform(4, 1000), 50, seed=0)

    def perfect(x_t, t):  # the triples' images are known
        alpha, sigma = SCHEDULE.coefficients(t, x_t)
        return (x_t - alpha * to_float(HELD_OUT.pixels)) / sigma

    assert float(denoising_loss(perfect, SCHEDULE, "epsilon", triples).max()) < 1e-6
    silent = denoising_loss(lambda x, t: torch.zeros_like(x), SCHEDULE, "epsilon", triples)
    assert silent.shape == (4, 20)
    assert float(silent.mean()) == pytest.approx(1, abs=0.01)


def test_triples_are_the_same_every_time_and_stay_in_their_ranges():
    ranges = uniform(4, 1000)
    one, two = (fixed_triples(HELD_OUT, ranges, 5, seed=3) for _ in range(2))
    seen = 0
    for (index, x0, t, eps, _), (_, _, t_again, eps_again, _) in zip(one, two, strict=True):
        assert torch.equal(t, t_again)
        assert torch.equal(eps, eps_again)
        assert torch.equal(x0, to_float(HELD_OUT.pixels))
        assert ranges[index].low <= int(t.min())
        assert int(t.max()) < ranges[index].high
        seen += 1
    assert seen == 4 * 5
    noises = torch.stack([eps for _, _, _, eps, _ in one])
    assert float(noises.mean()) == pytest.approx(0, abs=0.02)
    assert float(noises.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], next(iter(fixed_triples(HELD_OUT, ranges, 5, seed=4)))[3])


def test_some_images_and_small_batches_have_the_losses_of_the_whole():
    triples = fixed_triples(HELD_OUT, uniform(4, 1000), 3, seed=0)

    def network(x_t, t):
        return x_t * (t / 1000)[:, None, None, None]

    whole = denoising_loss(network, SCHEDULE, "epsilon", triples)
    torch.testing.assert_close(
        denoising_loss(network, SCHEDULE, "epsilon", triples, batch_size=7), whole
    )
    rows = [1, 5, 19]
    torch.testing.assert_close(
        denoising_loss(network, SCHEDULE, "epsilon", triples.of(rows)), whole[:, rows]
    )


def test_replicates_of_two_models_resample_the_same_images():
    assert torch.equal(resample_counts(7, 3, 100), resample_counts(7, 3, 100))
    assert not torch.equal(resample_counts(7, 3, 100), resample_counts(7, 4, 100))


def test_more_images_of_the_same_prompts_do_not_narrow_an_interval_that_resamples_prompts():
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeated, groups = scores.repeat_interleave(5), torch.arange(40).repeat_interleave(5)
    alone = torch.tensor(resampled_means(3, scores, 500))
    torch.testing.assert_close(torch.tensor(resampled_means(3, repeated, 500, groups)), alone)
    assert (
        torch.tensor(resampled_means(3, repeated, 500)).std() < 0.6 * alone.std()
    )  # 1 / sqrt(5) of it: far too sure


def test_a_group_that_was_cut_short_counts_for_the_images_it_has():
    scores, groups = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64), torch.tensor([4, 4, 7])
    assert set(resampled_means(0, scores, 50, groups)) == {2.0, 14 / 3, 10.0}
