"""Gradient affinity on a model whose loss gradients are known."""

import pytest
import torch
from torch import nn

from deme.data import InMemoryImages
from deme.diffusion import NoiseSchedule
from deme.methods import affinity
from deme.methods.affinity import gradient_affinity

T = 40


class TwoHalves(nn.Module):
    """eps_hat = a x_t below t = T / 2 and (b - a / 2) x_t above: the gradients' directions are (1, 0) and (-1/2, 1)."""

    prediction_type = "epsilon"

    def __init__(self):
        super().__init__()
        self.schedule = NoiseSchedule.linear(T, 0.02, 0.2)
        self.a, self.b = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, x_t, t):
        factor = torch.where(t < T // 2, self.a, self.b - self.a / 2)
        return factor.view(-1, 1, 1, 1) * x_t


@pytest.fixture
def images():
    return InMemoryImages(
        torch.randint(0, 256, (200, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    )


def test_known_directions_are_found(images):
    found = gradient_affinity(TwoHalves(), images, num_bins=8, num_images=512, seed=0).cosines
    expected = torch.ones(8, 8, dtype=torch.float64)
    expected[:4, 4:] = expected[4:, :4] = -0.5 / (1.25**0.5)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert torch.equal(found, found.T)


def test_it_is_a_function_of_the_seed_and_a_sketch_keeps_it(images, monkeypatch):
    first, again = (gradient_affinity(TwoHalves(), images, 8, 64, 1).cosines for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, gradient_affinity(TwoHalves(), images, 8, 64, 2).cosines)

    monkeypatch.setattr(affinity, "SKETCH_SIZE", 4096)
    g = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g[1] += g[0]
    sketched = torch.stack([affinity._sketch([row]) for row in g])
    assert sketched.shape == (2, 4096)
    exact, kept = torch.corrcoef(g)[0, 1], torch.nn.functional.cosine_similarity(*sketched, dim=0)
    assert float(kept) == pytest.approx(float(exact), abs=3 / 4096**0.5)


def plain_cosine(model, images, **settings):
    """What one estimate per bin would say: the mistake that halves are there for."""
    bins = affinity.uniform(settings["num_bins"], T)
    one = torch.stack(
        [
            affinity.gradient_sketches(model, images, item, 2 * settings["num_images"], 0)[0, 0]
            for item in bins
        ]
    )
    one = one / one.norm(dim=1, keepdim=True)
    return one @ one.T


class Noisy(nn.Module):
    """The gradient has a true part along one parameter and noise of its own in many others."""

    prediction_type = "epsilon"

    def __init__(self, signal):
        super().__init__()
        self.schedule = NoiseSchedule.linear(T, 0.02, 0.2)
        self.common = nn.Parameter(torch.tensor(0.0))
        self.many = nn.Parameter(torch.zeros(16))
        self.signal = signal

    def forward(self, x_t, t):
        return (
            (self.signal * self.common + self.many.view(1, 4, 4))
            * x_t.sign()
            * (x_t.flatten(1)[:, :1, None, None] > 0)
        )


def test_noise_does_not_pull_the_cosine_to_zero(images):
    """Halves against the truth from many images, where one estimate per bin falls short of it."""
    settings = {"num_bins": 4, "num_images": 32}
    truth = gradient_affinity(
        Noisy(0.1), images, num_bins=4, num_images=100_000, seed=9, batch_size=5000
    ).cosines
    found = torch.stack(
        [gradient_affinity(Noisy(0.1), images, **settings, seed=seed).cosines for seed in range(20)]
    ).mean(0)
    plain = plain_cosine(Noisy(0.1), images, **settings)
    assert float((found - truth).abs().mean()) < 0.3 * float((plain - truth).abs().mean())


def test_a_bin_without_a_known_gradient_has_no_affinity(images):
    class Nothing(TwoHalves):
        """No gradient at all in the upper half."""

        def forward(self, x_t, t):
            return torch.where(t < T // 2, self.a, self.a.detach() * 0).view(-1, 1, 1, 1) * x_t

    found = gradient_affinity(Nothing(), images, num_bins=4, num_images=256, seed=0)
    assert found.cosines[0, 1].item() == pytest.approx(1, abs=0.05)
    assert found.reliability.tolist() == pytest.approx([1, 1, 0, 0], abs=0.05)
    assert torch.equal(found.cosines[:2, 2:], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(found.cosines[2:, 2:], torch.eye(2, dtype=torch.float64))


def noisy_sketches(cosine, noise, draw, groups=4, size=400):
    """Sketches of two bins whose gradients have length 1 and a known cosine, and `noise` as long in each half."""
    truth = torch.zeros(2, size, dtype=torch.float64)
    truth[0, 0] = 1
    truth[1, :2] = torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    own = torch.randn(2, 2, groups, size, generator=draw, dtype=torch.float64)
    return truth[:, None, None] / groups + own * noise / (size * groups) ** 0.5


def estimates(cosine, noise, repeats=200):
    draw = torch.Generator().manual_seed(0)
    for _ in range(repeats):
        sketches = noisy_sketches(cosine, noise, draw)
        products = affinity.inner_products(lambda i, found=sketches: found[i], 2)
        yield products, affinity._corrected(products.inner, products.inner.diagonal() > 0)


def test_the_correction_recovers_a_cosine_that_noise_hides():
    """Noise as long as the gradient: reliability 1/2, so that the plain cosine is half of the truth."""
    found = list(estimates(0.6, 1.0))
    plain = torch.stack([p.uncorrected[0, 1] for p, _ in found])
    corrected = torch.stack([cosines[0, 1] for _, cosines in found])
    reliability = torch.stack([p.reliability for p, _ in found]).mean()
    assert float(reliability) == pytest.approx(0.5, abs=0.02)
    assert float(plain.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(corrected.mean()) == pytest.approx(0.6, abs=0.02)


def test_standard_errors_are_the_spread_of_the_corrected_cosines():
    for cosine, noise in ((0.6, 1.0), (-0.4, 0.5)):
        found = list(estimates(cosine, noise))
        told = torch.stack([affinity.standard_errors(p)[0, 1] for p, _ in found])
        spread = float(torch.stack([cosines[0, 1] for _, cosines in found]).std())
        assert float(told.square().mean().sqrt()) == pytest.approx(spread, rel=0.2)
    with pytest.raises(ValueError, match="at least two groups"):
        affinity.standard_errors(affinity.Products(torch.ones(2, 1, 2, 1), torch.ones(2, 2)))


def test_a_sketch_keeps_inner_products_within_its_stated_error(monkeypatch):
    monkeypatch.setattr(affinity, "SKETCH_SIZE", 2048)
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(24, 30_000, generator=draw, dtype=torch.float64)
    vectors[1:] += 0.7 * vectors[0]
    vectors /= vectors.norm(dim=1, keepdim=True)
    sketches = torch.stack([affinity._sketch([row]) for row in vectors])
    errors = (sketches @ sketches.T - vectors @ vectors.T).triu(1)
    rms = float(errors.square().sum() / (24 * 23 / 2)) ** 0.5
    assert 0.7 / 2048**0.5 < rms < 1.5 / 2048**0.5


def test_long_gradients_are_sketched_the_same_in_whatever_tensors_they_come(monkeypatch):
    monkeypatch.setattr(affinity, "SKETCH_SIZE", 64)
    monkeypatch.setattr(affinity, "CHUNK_ELEMENTS", 1000)
    gradient = torch.randn(5500, generator=torch.Generator().manual_seed(0))
    whole = affinity._sketch([gradient])
    parts = [part.reshape(-1, 2) for part in gradient.split([2, 998, 1000, 2500, 1000])]
    assert torch.equal(affinity._sketch(parts), whole)


def test_products_are_the_same_however_many_bins_are_in_memory(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    sketches = torch.randn(7, 2, 3, 50, generator=draw, dtype=torch.float64)
    expected = torch.einsum("iak,jbk->iajb", sketches[:, 0], sketches[:, 1])
    for at_once in (2, 3, 16):
        monkeypatch.setattr(affinity, "BINS_AT_ONCE", at_once)
        found = affinity.inner_products(lambda i: sketches[i], 7)
        torch.testing.assert_close(found.across, expected)
        torch.testing.assert_close(found.within, sketches.sum(2).square().sum(2).T)


def test_groups_and_batches_divide_the_same_gradient(images):
    model, item = TwoHalves(), affinity.uniform(4, T)[1]
    whole = affinity.gradient_sketches(model, images, item, 2048, 0)
    for groups, size in ((4, 256), (2, 60)):
        parts = affinity.gradient_sketches(model, images, item, 2048, 0, groups, size)
        assert parts.shape == (2, groups, 2)
        torch.testing.assert_close(parts.sum(1), whole.sum(1), rtol=1e-5, atol=1e-4)
    assert affinity.num_samples(2048, 4) == 1024
    assert affinity.num_samples(70, 4) == 36  # 35 in pairs, 8 at a time
