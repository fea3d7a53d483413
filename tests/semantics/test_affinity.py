"""Gradient affinity on a model whose loss gradients are known."""

import pytest
import torch
from torch import nn

from deme.data import InMemoryImages
from deme.methods import affinity
from deme.methods.affinity import gradient_affinity
from deme.schedule import NoiseSchedule

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
    return InMemoryImages(torch.randint(0, 256, (200, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte())


def test_known_directions_are_found(images):
    found = gradient_affinity(TwoHalves(), images, num_bins=8, num_images=512, seed=0)
    expected = torch.ones(8, 8, dtype=torch.float64)
    expected[:4, 4:] = expected[4:, :4] = -0.5 / (1.25**0.5)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert torch.equal(found, found.T)


def test_it_is_a_function_of_the_seed_and_a_sketch_keeps_it(images, monkeypatch):
    first, again = (gradient_affinity(TwoHalves(), images, 8, 64, 1) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, gradient_affinity(TwoHalves(), images, 8, 64, 2))

    monkeypatch.setattr(affinity, "SKETCH", 4096)
    g = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g[1] += g[0]
    sketched = torch.stack([affinity._sketch(row) for row in g])
    assert sketched.shape == (2, 4096)
    exact, kept = torch.corrcoef(g)[0, 1], torch.nn.functional.cosine_similarity(*sketched, dim=0)
    assert float(kept) == pytest.approx(float(exact), abs=3 / 4096**0.5)


def test_a_gradient_that_is_noise_does_not_count_as_agreement(images):
    class Nothing(TwoHalves):
        """At the optimum for one half: its true gradient is 0 there."""

        def forward(self, x_t, t):
            return torch.where(t < T // 2, self.a, self.a.detach() * 0).view(-1, 1, 1, 1) * x_t

    found = gradient_affinity(Nothing(), images, num_bins=4, num_images=256, seed=0)
    assert bool(torch.isfinite(found).all())
    assert found[0, 1].item() == pytest.approx(1, abs=0.05)
    assert found[:2, 2:].abs().max() < 0.05
