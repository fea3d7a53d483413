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
    sketched = torch.stack([affinity._sketch(row) for row in g])
    assert sketched.shape == (2, 4096)
    exact, kept = torch.corrcoef(g)[0, 1], torch.nn.functional.cosine_similarity(*sketched, dim=0)
    assert float(kept) == pytest.approx(float(exact), abs=3 / 4096**0.5)


def plain_cosine(model, images, **settings):
    """What one estimate per bin would say: the mistake that halves are there for."""
    bins = affinity.uniform(settings["num_bins"], T)
    one = torch.stack(
        [
            affinity._gradient(model, images, item, settings["num_images"], (0, 0), 64)
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
