"""Power-function averages: their closed forms, and averages made of stored ones against tracked ones."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from deme.merging.averages import Candidates, Power
from deme.merging.power_profiles import (
    MAX_LENGTH,
    TRACKED,
    Profile,
    decay,
    exponent,
    inner_product,
    reconstruct,
    step_weights,
)
from deme.system import BadConfig
from deme.training.ema import PowerAverages, post_hoc_ema

LENGTHS = [0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.28]


def profile_at(profile, tau):
    gamma = profile.gamma
    return (gamma + 1) * tau**gamma / profile.step ** (gamma + 1) if tau <= profile.step else 0.0


@pytest.mark.parametrize("length", LENGTHS)
def test_the_length_is_the_standard_deviation_of_the_profile(length):
    one = Profile(length, 1)
    moments = [quad(lambda tau, k=k: tau**k * profile_at(one, tau), 0, 1)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1, abs=1e-9)
    assert math.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(length, rel=1e-9)


def test_the_exponents_are_the_papers():
    """Its text gives 6.94 for 10% and 16.97 for 5%, the largest roots of a cubic."""
    assert exponent(0.10) == pytest.approx(6.94, abs=5e-3)
    assert exponent(0.05) == pytest.approx(16.97, abs=5e-3)
    for length in LENGTHS:
        square = length**-2
        largest = np.roots([1, 7, 16 - square, 12 - square]).real.max()
        assert exponent(length) == pytest.approx(largest, rel=1e-9)
    assert exponent(MAX_LENGTH) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("length", [0, -0.1, 0.3, math.nan])
def test_lengths_that_no_average_has_are_refused(length):
    with pytest.raises(ValueError, match="above 0"):
        exponent(length)
    with pytest.raises(BadConfig, match=r"ema\.length"):
        post_hoc_ema([nn.Parameter(torch.zeros(1))], length)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_recursion_weighs_steps_by_integrals_of_the_profile(length):
    last = Profile(length, 40)
    weights = np.zeros(40)
    for step in range(1, 41):
        beta = decay(last.gamma, step)
        weights *= beta
        weights[step - 1] = 1 - beta
    np.testing.assert_allclose(step_weights(last).numpy(), weights, rtol=1e-9, atol=1e-15)
    integral = quad(lambda tau: profile_at(last, tau), 38, 39)[0]
    assert float(step_weights(last)[38]) == pytest.approx(integral, rel=1e-9)


@pytest.mark.parametrize("one", [Profile(0.05, 30), Profile(0.1, 50)])
@pytest.mark.parametrize("other", [Profile(0.05, 50), Profile(0.2, 20), Profile(0.1, 50)])
def test_inner_products_are_integrals(one, other):
    expected, _ = quad(lambda tau: profile_at(one, tau) * profile_at(other, tau), 0, min(one.step, other.step))  # fmt: skip
    assert inner_product(one, other) == pytest.approx(expected, rel=1e-9)
    assert inner_product(one, other) == inner_product(other, one)


def stored_profiles(every, steps):
    return [Profile(length, step) for step in range(every, steps + 1, every) for length in TRACKED]


def test_a_stored_average_is_reconstructed_as_itself():
    stored = stored_profiles(50, 1000)
    for index in (13, 38, 39):
        earlier = [p for p in stored if p.step <= stored[index].step]
        found = reconstruct(earlier, stored[index])
        expected = [float(p == stored[index]) for p in earlier]
        assert found.weights == pytest.approx(expected, abs=1e-9)
        assert found.error < 1e-6  # the root of a difference of numbers near 1


def test_the_combination_is_the_nearest_one_with_sum_one():
    """Against scipy's minimizer of the same distance, on the discrete weights of every step."""
    stored, wanted = stored_profiles(250, 1000), Profile(0.15, 1000)
    found = reconstruct(stored, wanted)
    assert sum(found.weights) == pytest.approx(1, abs=1e-12)
    rows = torch.stack([nn.functional.pad(step_weights(p), (0, 1000 - p.step)) for p in stored])
    target = step_weights(wanted)
    # minimize |x rows - target|^2 over sum x = 1: replace the last by 1 - the others
    free = (rows[:-1] - rows[-1]).numpy()
    best = np.linalg.lstsq(free.T, (target - rows[-1]).numpy(), rcond=None)[0]
    assert found.weights[:-1] == pytest.approx(best, abs=2e-2)  # step by step is not continuous
    left = (torch.tensor(found.weights, dtype=torch.float64) @ rows - target).norm()
    assert found.error == pytest.approx(float(left / target.norm()), rel=1e-2)


class Track(nn.Module):
    """A small network whose weights take a noisy path, as those of a constant learning rate do."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.layers = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64))
            for shape in ((4, 3), (5,))
        )
        self.draw = draw

    @torch.no_grad()
    def update(self):
        for layer in self.layers:
            layer += 0.05 * torch.randn(layer.shape, generator=self.draw, dtype=torch.float64)


@pytest.fixture(scope="module")
def tracked():
    """Stored averages of 1,000 steps, averages of all lengths tracked directly, and the path."""
    network = Track()
    ema, direct = post_hoc_ema(network.parameters(), 0.1), {}
    for length in LENGTHS:
        direct[length] = PowerAverages(network.parameters(), length)
    stored, path = {}, []
    for step in range(1, 1001):
        network.update()
        for average in (ema, *direct.values()):
            average.step(network.parameters())
        path.append(torch.cat([layer.detach().flatten() for layer in network.layers]))
        if step % 50 == 0:
            for length in TRACKED:
                stored[Profile(length, step)] = flat(ema.averages[length])
    return stored, {length: flat(ema.shadow_params) for length, ema in direct.items()}, torch.stack(path)  # fmt: skip


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).clone()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_tracked_average_is_the_weighted_sum_of_all_steps(length, tracked):
    _, direct, path = tracked
    expected = step_weights(Profile(length, 1000)) @ path
    torch.testing.assert_close(direct[length], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_reconstructed_average_is_that_length_tracked_directly(length, tracked):
    """20 snapshots of two averages, in float64.

    The weights of the combination and of the wanted average both sum to 1 over all steps, so their
    difference d has the sum 0, and whatever c is, |error| <= sum_k |d_k| |theta_k - c|: no constant
    is justified by more than that. The combination itself is exact, up to 1e-10 of rounding.
    """
    stored, direct, path = tracked
    wanted = Profile(length, 1000)
    found = reconstruct(list(stored), wanted)
    pairs = list(zip(found.weights, stored.items(), strict=True))
    made = sum(weight * average for weight, (_, average) in pairs)
    combined = sum(
        weight * nn.functional.pad(step_weights(profile), (0, 1000 - profile.step))
        for weight, (profile, _) in pairs
    )
    torch.testing.assert_close(made, combined @ path, rtol=1e-10, atol=1e-10)
    difference = combined - step_weights(wanted)
    assert float(difference.sum()) == pytest.approx(0, abs=1e-12)
    bound = difference.abs() @ (path - path.mean(0)).abs()
    assert bool(((made - direct[length]).abs() <= bound + 1e-10).all())
    spread = (path - path.mean(0)).abs().max()
    if 0.05 <= length <= 0.2:  # between and near the stored lengths it is the same average
        assert float((made - direct[length]).abs().max()) < 0.01 * float(spread)
    if length in TRACKED:
        torch.testing.assert_close(made, direct[length], rtol=1e-9, atol=1e-9)


def test_checkpoints_go_on_where_they_were():
    network = Track()
    whole, first = (post_hoc_ema(network.parameters(), 0.07) for _ in range(2))
    second = post_hoc_ema(network.parameters(), 0.07)
    for step in range(20):
        network.update()
        whole.step(network.parameters())
        (first if step < 9 else second).step(network.parameters())
        if step == 8:
            second.load_state_dict(first.state_dict())
    for length in (*TRACKED, 0.07):
        assert torch.equal(flat(whole.averages[length]), flat(second.averages[length]))


def test_what_cannot_be_reconstructed_is_said(tmp_path, messages):
    stored = dict.fromkeys(stored_profiles(100, 500), tmp_path)
    steps = [100, 200, 300, 400, 500]
    candidates = Candidates([tmp_path] * 5, steps, stored)
    assert Power(0.1, until=300).weigh(candidates).text == "power function of length 0.1 up to step 300"  # fmt: skip
    Power(0.28).weigh(candidates)
    assert "another length, or more frequent snapshots" in messages[-1]
    for average, given, message in (
        (Power(0.1), Candidates([tmp_path] * 5, steps), "needs the power-function averages of ema=post_hoc"),
        (Power(0.1), Candidates([tmp_path] * 2), "inputs.run names 2"),
        (Power(0.1, until=150), candidates, "no snapshot of step 150; there are: 100, 200"),
    ):  # fmt: skip
        with pytest.raises(BadConfig, match=message):
            average.weigh(given)
