"""Loss weightings: one objective whatever the network predicts, the reference values, and the limits (docs/method.md)."""

import pytest
import torch

from deme.builders.method import described
from deme.diffusion import NoiseSchedule
from deme.diffusion.weighting import mass, prediction_weight, timestep_weights
from deme.diffusion.weighting.constant import Constant
from deme.diffusion.weighting.constant_native import ConstantNative
from deme.diffusion.weighting.min_snr import MinSNR
from deme.diffusion.weighting.p2 import P2
from deme.diffusion.weighting.snr_plus_one import SNRPlusOne
from deme.diffusion.weighting.truncated_snr import TruncatedSNR
from deme.runs import compose_stage, instantiate, options

LINEAR = NoiseSchedule.linear()
SCALED_LINEAR = NoiseSchedule.variance_preserving(
    (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
)
KINDS = ("epsilon", "sample", "v_prediction")
SCHEMES = [
    instantiate(compose_stage("train", [f"weighting={name}"])["weighting"])
    for name in options("weighting")
]


def eps_weight(weighting, schedule=LINEAR):
    return prediction_weight(weighting, schedule.snr, "epsilon")


@pytest.mark.parametrize("schedule", [LINEAR, SCALED_LINEAR], ids=["linear", "scaled_linear"])
@pytest.mark.parametrize("weighting", SCHEMES, ids=lambda w: type(w).__name__)
def test_the_weighted_loss_is_the_same_whatever_is_predicted(weighting, schedule):
    if getattr(weighting, "native", False):
        for kind in KINDS:
            assert torch.equal(
                prediction_weight(weighting, schedule.snr, kind),
                torch.ones(1000, dtype=torch.float64),
            )
        return
    g = torch.Generator().manual_seed(0)
    t = torch.arange(1000)
    x0, eps, guess = (torch.randn(1000, 3, generator=g, dtype=torch.float64) for _ in range(3))
    x_t = schedule.add_noise(x0, eps, t)
    # any prediction of x0, and the same one as eps and as v
    x0_guess = schedule.predicted_x0("v_prediction", guess, x_t, t)
    alpha, sigma = schedule.coefficients(t, x_t)
    eps_guess = (x_t - alpha * x0_guess) / sigma
    losses = {}
    for kind, prediction in (("epsilon", eps_guess), ("sample", x0_guess), ("v_prediction", guess)):
        error = (prediction - schedule.target(kind, x0, eps, t)).square().mean(1)
        losses[kind] = prediction_weight(weighting, schedule.snr, kind) * error
    torch.testing.assert_close(losses["epsilon"], losses["sample"], rtol=1e-9, atol=0)
    torch.testing.assert_close(losses["epsilon"], losses["v_prediction"], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Constant(), {0: 1, 500: 1, 999: 1}),
        (SNRPlusOne(), {0: 1.0001, 250: 1.92, 500: 12.9, 750: 303, 999: 24778}),
        (TruncatedSNR(), {0: 1, 500: 11.9, 750: 302, 999: 24777}),
        (MinSNR(5), {0: 5e-4, 50: 0.155, 100: 0.586, 130: 1, 999: 1}),
        (P2(1, 1), {0: 1e-4, 250: 0.479, 500: 0.922, 999: 0.99996}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_reference_weights_of_the_eps_loss(weighting, expected):
    weight = eps_weight(weighting)
    for t, value in expected.items():
        assert float(weight[t]) == pytest.approx(value, rel=0.01), t


def test_reference_means_and_quartiles():
    snr_plus_one = eps_weight(SNRPlusOne())
    assert float(snr_plus_one.mean()) == pytest.approx(1312, rel=1e-3)
    assert snr_plus_one.view(4, 250).mean(1).tolist() == pytest.approx(
        [1.27, 5.19, 83.4, 5159], rel=0.01
    )
    assert mass(snr_plus_one, [0, 250, 500, 750, 1000])[3] == pytest.approx(0.983, abs=5e-4)
    assert float(eps_weight(MinSNR()).mean()) == pytest.approx(0.913, abs=5e-4)
    assert float(eps_weight(P2()).mean()) == pytest.approx(0.724, abs=5e-4)
    scaled = eps_weight(SNRPlusOne(), SCALED_LINEAR)
    assert [float(scaled[t]) for t in (250, 500, 750, 999)] == pytest.approx(
        [1.48, 3.62, 17.8, 214.6], rel=0.01
    )
    assert float(scaled.mean()) == pytest.approx(21.3, rel=0.01)


@pytest.mark.parametrize(
    ("schedule", "at_five", "at_one"), [(LINEAR, 130, 259), (SCALED_LINEAR, 147, 354)]
)
def test_snr_crossings(schedule, at_five, at_one):
    assert [int((schedule.snr >= level).sum()) for level in (5, 1)] == [at_five, at_one]


def test_v_prediction_min_snr_divides_by_snr_plus_one():
    """The disputed one: min(SNR, gamma) / (SNR + 1), no 1 added above."""
    weight = prediction_weight(MinSNR(5), LINEAR.snr, "v_prediction")
    torch.testing.assert_close(weight, LINEAR.snr.clamp_max(5) / (LINEAR.snr + 1))
    torch.testing.assert_close(
        prediction_weight(SNRPlusOne(), LINEAR.snr, "v_prediction"), torch.ones(1000).double()
    )


@pytest.mark.parametrize(
    ("weighting", "at_zero", "at_infinity"),  # per kind: eps, x0, v
    [
        (Constant(), (1, 0, 0), (1, torch.inf, 1)),
        (ConstantNative(), (1, 1, 1), (1, 1, 1)),
        (SNRPlusOne(), (torch.inf, 1, 1), (1, torch.inf, 1)),
        (TruncatedSNR(), (torch.inf, 1, 1), (1, torch.inf, 1)),
        (MinSNR(5), (1, 0, 0), (0, 5, 0)),
        (P2(1, 1), (1, 0, 0), (0, 1, 0)),
        (P2(1, 0), (1, 0, 0), (1, torch.inf, 1)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_limits_at_snr_zero_and_infinity(weighting, at_zero, at_infinity):
    snr = torch.tensor([0, torch.inf])
    for kind, zero, infinity in zip(KINDS, at_zero, at_infinity, strict=True):
        found = prediction_weight(weighting, snr, kind).tolist()
        assert found == pytest.approx([zero, infinity], abs=1e-12), kind
        if zero == 0:
            assert found[0] == 0, "not a tiny weight, which would read as trained"


def test_an_infinite_weight_is_refused_unless_capped():
    snr = torch.tensor([10.0, 1.0, 0.0])
    with pytest.raises(
        ValueError, match=r"(?s)SNRPlusOne is infinite for epsilon at t = 2.*loss_weight.max=1000"
    ):
        timestep_weights(SNRPlusOne(), snr, "epsilon")
    assert timestep_weights(SNRPlusOne(), snr, "epsilon", max_weight=50).tolist() == pytest.approx(
        [1.1, 2, 50]
    )
    assert timestep_weights(SNRPlusOne(), snr, "v_prediction").tolist() == [1, 1, 1]


@pytest.mark.parametrize("weighting", SCHEMES, ids=lambda w: type(w).__name__)
def test_cap_then_mean_one(weighting):
    capped = timestep_weights(weighting, LINEAR.snr, "epsilon", max_weight=3.0)
    assert float(capped.max()) <= 3
    both = timestep_weights(weighting, LINEAR.snr, "epsilon", max_weight=3.0, normalize=True)
    assert float(both.mean()) == pytest.approx(1)
    torch.testing.assert_close(both, capped / capped.mean())


def test_a_weight_beyond_float32_is_infinite():
    """It is trained with in float32; the smallest is 0 there."""
    found = prediction_weight(lambda snr: snr, torch.tensor([1e39, 1e37, 1e-39]), "sample")
    assert found.tolist() == [torch.inf, pytest.approx(1e37), 0.0]


def test_the_log_says_what_loss_a_weighting_is():
    ones = torch.ones(4)
    assert described(ones, "epsilon").endswith("predicted noise, the same weight at every timestep")
    assert "predicted v, with weights from 1 to 2" in described(ones + ones.cumsum(0).eq(4), "v_prediction")  # fmt: skip
    assert "; 0 at 2 timesteps (first t = 1), which are not trained" in described(torch.tensor([1.0, 0, 0, 2]), "sample")  # fmt: skip


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="one weight, not negative"):
        timestep_weights(lambda snr: -snr, LINEAR.snr, "epsilon")
    with pytest.raises(ValueError, match="one weight, not negative"):
        timestep_weights(lambda snr: snr * torch.nan, LINEAR.snr, "epsilon")
    with pytest.raises(ValueError, match="unknown prediction type 'noise'"):
        timestep_weights(Constant(), LINEAR.snr, "noise")
    with pytest.raises(ValueError, match="largest weight must be a positive number"):
        timestep_weights(Constant(), LINEAR.snr, "epsilon", max_weight=0)
    for normalize in (False, True):
        for nothing in (lambda snr: 0 * snr, lambda snr: 1e-13 * snr / snr):
            with pytest.raises(ValueError, match="nothing would be trained"):
                timestep_weights(nothing, LINEAR.snr, "sample", normalize=normalize)
    infinite = (lambda: MinSNR(torch.inf), lambda: P2(k=torch.inf), lambda: P2(gamma=torch.inf))
    for wrong in (lambda: MinSNR(0), lambda: P2(k=0), lambda: P2(gamma=-1), *infinite):
        with pytest.raises(ValueError, match="positive"):
            wrong()
