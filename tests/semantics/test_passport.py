"""The passport asks the weights, not the config: which prediction type, schedule and value range do they fit?"""

import math

import pytest
import torch

from deme.data import every
from deme.data.digits import load_digits
from deme.data.pixels import to_float
from deme.diffusion import FlowSchedule, NoiseSchedule
from deme.models.loading import load_pretrained
from deme.models.probe import assess_fits, known_schedules, probe, usual_schedule
from tests.models import tiny


@pytest.fixture(scope="module")
def base():
    return load_pretrained("asset:digits_base")


@pytest.fixture(scope="module")
def pixels():
    return every(load_digits().held_out)[:128]


def verdict(network, schedule, pixels, prediction_type="epsilon"):
    """The state, the stated fit and the best one."""
    fits = probe(network, known_schedules(schedule), to_float(pixels), "cpu")
    return *assess_fits(fits, prediction_type), fits[0]


def as_v(base):
    """The same denoiser as a network that answers v."""

    def network(x_t, t):
        t = t.long()  # under the hypothesis of flow matching it may be a fraction
        alpha, sigma = base.schedule.coefficients(t, x_t)
        eps = base(x_t, t)
        return (eps - sigma * x_t) / alpha

    return network


def as_sample(base):
    return lambda x_t, t: base.schedule.predicted_x0("epsilon", base(x_t, t), x_t, t.long())


def for_pixels_in_0_1(base):
    """The denoiser of y = x0 / 2 + 1/2: half the signal, so its x_t is the base's at four times the noise."""

    def network(y_t, t):
        t = t.long()
        alpha, _ = base.schedule.coefficients(t, y_t)
        noisier = (base.schedule.snr[None] - base.schedule.snr[t][:, None] / 4).abs().argmin(1)
        scale = base.schedule.coefficients(noisier, y_t)[0] / (alpha / 2)
        return base((y_t - alpha / 2) * scale, noisier)

    return network


def test_a_true_config_fits(base, pixels):
    state, stated, best = verdict(base, base.schedule, pixels)
    assert state == "fits"
    assert stated.unexplained == best.unexplained < 0.3


@pytest.mark.parametrize(
    ("network", "stated", "true"),
    [(as_v, "epsilon", "v_prediction"), (as_sample, "epsilon", "sample"), (lambda b: b, "v_prediction", "epsilon"),
     (as_v, "sample", "v_prediction"), (as_sample, "v_prediction", "sample")],
)  # fmt: skip
def test_a_wrong_prediction_type_is_contradicted_by_the_right_one(
    network, stated, true, base, pixels
):
    state, _, best = verdict(network(base), base.schedule, pixels, stated)
    assert state == "contradicted"
    assert best.hypothesis.prediction_type == true
    assert best.hypothesis.schedule == "its own"


def test_networks_that_are_the_same_denoiser_fit_equally_well(base, pixels):
    shares = [verdict(f(base), base.schedule, pixels, p)[1].unexplained
              for f, p in ((lambda b: b, "epsilon"), (as_v, "v_prediction"), (as_sample, "sample"))]  # fmt: skip
    assert shares == pytest.approx([shares[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("stated", ["cosine", "scaled_linear"])
def test_a_wrong_schedule_is_contradicted_by_the_right_one(stated, base, pixels):
    state, _, best = verdict(base, usual_schedule(stated, 1000), pixels)
    assert state == "contradicted"
    assert best.hypothesis.schedule == "linear"


def as_flow(base):
    """The same denoiser as a flow-matching network, which is told 1000 s; at equal SNR x_t is only scaled."""

    def network(x_t, t):
        s = (t.double() / 1000).view(-1, 1, 1, 1)
        scale = ((1 - s).square() + s.square()).sqrt()
        share = ((1 - s) / scale).square().flatten()
        k = (base.schedule.alpha_squared[None] - share[:, None]).abs().argmin(1)
        x = (x_t / scale).float()
        eps = base(x, k)
        return eps - base.schedule.predicted_x0("epsilon", eps, x, k)

    return network


def test_flow_matching_is_told_from_diffusion(base, pixels):
    flow = as_flow(base)
    state, _, best = verdict(flow, base.schedule, pixels)
    assert (state, best.hypothesis.prediction_type) == ("contradicted", "flow_prediction")
    assert best.hypothesis.schedule == "flow"
    for shift in (1.0, 3.0):
        state, stated, best = verdict(flow, FlowSchedule(1000, shift), pixels, "flow_prediction")
        assert state == "fits"
        assert stated.unexplained < 0.36
    state, _, best = verdict(base, FlowSchedule(1000), pixels, "flow_prediction")
    assert (state, best.hypothesis.prediction_type) == ("contradicted", "epsilon")


def test_pixels_in_another_range_are_noticed(base, pixels):
    state, _, best = verdict(for_pixels_in_0_1(base), base.schedule, pixels)
    assert state == "contradicted"
    assert best.hypothesis.value_range == "0..1"


def test_a_network_that_knows_nothing_is_not_accused(base, pixels):
    assert verdict(lambda x_t, t: torch.zeros_like(x_t), base.schedule, pixels)[0] == "unclear"
    assert verdict(tiny(), tiny().schedule, pixels)[0] == "unclear"


def test_the_unexplained_share_is_one_for_the_mean_and_zero_for_the_truth(base, pixels):
    x0 = to_float(pixels)
    fits = probe(
        lambda x_t, t: torch.full_like(x_t, float(x0.mean())),
        known_schedules(base.schedule),
        x0,
        "cpu",
    )
    share = next(
        f
        for f in fits
        if f.hypothesis.prediction_type == "sample" and f.hypothesis.value_range == "-1..1"
    )
    assert share.unexplained == pytest.approx(1, rel=1e-3)
    fits = probe(lambda x_t, t: x0, known_schedules(base.schedule), x0, "cpu", batch_size=len(x0))
    assert fits[0].hypothesis.prediction_type == "sample"
    assert fits[0].unexplained == pytest.approx(0, abs=1e-6)


def test_usual_schedules_have_their_closed_forms():
    u = torch.arange(1001, dtype=torch.float64) / 1000
    level = ((u + 0.008) / 1.008 * math.pi / 2).cos().square()  # Nichol and Dhariwal, eq. 17
    cosine = (1 - (1 - level[1:] / level[:-1]).clamp(max=0.999)).cumprod(0)
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    linear = NoiseSchedule.linear().alpha_squared
    for name, expected in (
        ("cosine", cosine),
        ("scaled_linear", (1 - roots.square()).cumprod(0)),
        ("linear", linear),
    ):
        found = usual_schedule(name, 1000).alpha_squared
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert "linear" not in known_schedules(NoiseSchedule.linear())


@pytest.mark.parametrize("num_timesteps", [10, 50, 100])
def test_a_short_schedule_is_not_accused_of_being_another(num_timesteps, pixels):
    schedule = NoiseSchedule.linear(num_timesteps)
    x0 = to_float(pixels)
    mean, variance = x0.mean(), x0.var()

    def shrinks(x_t, t):
        alpha, sigma = schedule.coefficients(t, x_t)
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x_t - alpha * mean)

    assert set(known_schedules(schedule)) == {"its own"}
    assert verdict(shrinks, schedule, pixels, "sample")[0] != "contradicted"
