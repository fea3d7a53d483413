"""Flow matching: schedule, conversions, weights, densities, ranges and samplers (docs/method.md#flow-matching)."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from deme.diffusion import FlowSchedule, NoiseSchedule, RangeSampler, TimestepRange, generator
from deme.diffusion.density import LogitNormal, Mode, TruncatedDensity, Uniform
from deme.diffusion.levels import equal_levels, from_levels
from deme.diffusion.schedule import PREDICTION_TYPES, shift_sigmas
from deme.diffusion.timesteps import ProbabilisticSampler, StratifiedSampler
from deme.diffusion.weighting import prediction_weight
from deme.models.noise import noise_of, schedule_of
from deme.runs import compose_stage, instantiate, options
from deme.sampling.ddim import DDIM
from deme.sampling.flow import FlowEuler, FlowHeun
from deme.sampling.generate import generate
from deme.sampling.ranges import equal_sampler_steps
from deme.sampling.routed import RoutedModel
from deme.system import BadConfig

SHIFTS = (1.0, 3.0, 0.5)
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SCHEMES = [
    instantiate(compose_stage("train", [f"weighting={name}"])["weighting"])
    for name in options("weighting")
]
DENSITIES = [Uniform(), LogitNormal(), LogitNormal(1.0, 0.5), Mode(), Mode(-0.9), Mode(1.75)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_grid_is_the_scheduler_s_own(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = FlowSchedule(1000, shift)
    t = torch.arange(1000)
    torch.testing.assert_close(ours.sigma.flip(0).float(), theirs.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.timestep_input(t).flip(0), theirs.timesteps, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.timestep_at(ours.sigma_at(t)), t.double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        ours.timestep_of_input(ours.timestep_input(t)), t.double(), rtol=0, atol=1e-3
    )
    expected = ((1 - ours.sigma) / ours.sigma).square()
    torch.testing.assert_close(ours.snr, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_noisy_images_are_the_scheduler_s_own(shift):
    theirs, ours = FlowMatchEulerDiscreteScheduler(shift=shift), FlowSchedule(1000, shift)
    x0, eps = torch.randn(2, 7, 1, 4, 4, generator=generator("flow"))
    t = torch.tensor([0, 1, 250, 500, 501, 998, 999])
    found = theirs.scale_noise(x0, theirs.timesteps.flip(0)[t], eps)
    torch.testing.assert_close(ours.add_noise(x0, eps, t), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(), FlowSchedule(1000, 3.0)], ids=["vp", "flow"]
)
def test_every_prediction_gives_back_the_image_in_float64(schedule, kind):
    t = torch.arange(0, 990, 3)
    x0, eps = torch.randn(2, len(t), 1, 2, 2, generator=generator("both"), dtype=torch.float64)
    x_t = schedule.add_noise(x0, eps, t)
    if not schedule.supports(kind):
        with pytest.raises(ValueError, match="allowed: epsilon, sample, flow_prediction"):
            schedule.target(kind, x0, eps, t)
        with pytest.raises(ValueError, match="not defined"):
            schedule.predicted_x0(kind, x0, x_t, t)
        return
    target = schedule.target(kind, x0, eps, t)
    found = schedule.predicted_x0(kind, target, x_t, t)
    torch.testing.assert_close(found, x0, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weighting", SCHEMES, ids=lambda w: type(w).__name__)
@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(), FlowSchedule(1000, 3.0)], ids=["vp", "flow"]
)
def test_the_weighted_loss_is_that_of_x0_whatever_is_predicted(schedule, weighting):
    """w_x(SNR) ||x0 err||^2 = w(prediction) ||prediction err||^2, at any wrong guess of x0."""
    t = torch.arange(0, 999)
    draws = torch.randn(3, len(t), 1, 2, 2, generator=generator("w"), dtype=torch.float64)
    x0, eps, guess = draws
    alpha, sigma = schedule.coefficients(t, x0)
    x_t = schedule.add_noise(x0, eps, t)
    eps_guess = (x_t - alpha * guess) / sigma  # what the same guess of x_0 says about the noise
    guesses = {
        "epsilon": eps_guess, "sample": guess, "flow_prediction": eps_guess - guess,
        "v_prediction": alpha * eps_guess - sigma * guess,
    }  # fmt: skip
    wanted = (guess - x0).square().flatten(1).mean(1) * weighting(schedule.snr[t])
    for kind in filter(schedule.supports, PREDICTION_TYPES):
        error = guesses[kind] - schedule.target(kind, x0, eps, t)
        weight = prediction_weight(weighting, schedule.snr, kind)[t]
        found = weight * error.square().flatten(1).mean(1)
        if getattr(weighting, "native", False):
            assert torch.equal(weight, torch.ones_like(weight))
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)


def test_the_plain_flow_loss_is_one_over_s_squared_of_the_x0_loss():
    schedule = FlowSchedule(1000, 3.0)

    class PerNoise:
        def __call__(self, snr):
            return (1 + snr.sqrt()).square()  # 1 / s^2

    weight = prediction_weight(PerNoise(), schedule.snr, "flow_prediction")
    torch.testing.assert_close(weight, torch.ones_like(weight), rtol=1e-9, atol=0)


@pytest.mark.parametrize("density", DENSITIES, ids=lambda d: f"{type(d).__name__}{vars(d)}")
@pytest.mark.parametrize(("low", "high"), [(0, 1000), (0, 250), (600, 601), (900, 1000)])
def test_a_density_stays_in_its_range_and_has_its_shares(density, low, high):
    """Its mass over the range is 1, and draws have the shares of its distribution function."""
    item = TimestepRange(low, high)
    edges = density.cdf(torch.arange(1001, dtype=torch.float64) / 1000)
    assert edges[0] == 0
    assert float(edges[-1]) == pytest.approx(1, abs=1e-12)
    assert bool((edges.diff() >= 0).all())
    shares = edges.diff()[low:high] / edges.diff()[low:high].sum()
    draw = TruncatedDensity(density, item, 1000)
    assert float(draw.upper[-1]) == 1
    t = RangeSampler(item, 1000, antithetic=False, density=density)(40_000, generator("density"))
    assert low <= int(t.min())
    assert int(t.max()) < high
    assert t.dtype == torch.int64
    middle = (high - low) // 2
    share = float(shares[:middle].sum())
    error = math.sqrt(share * (1 - share) / len(t))
    assert abs(float((t < low + middle).double().mean()) - share) <= 5 * error
    assert (int(draw(torch.zeros(1))), int(draw(torch.ones(1)))) == (
        low + int((shares > 0).nonzero()[0]),
        high - 1,
    )


def test_antithetic_draws_of_a_density_are_opposite_quantiles():
    everywhere = TimestepRange(0, 1000)
    symmetric = RangeSampler(everywhere, 1000, density=LogitNormal())(1001, generator("pairs"))
    first, second = symmetric[:501], symmetric[501:]
    assert int((first[:500] + second - 999).abs().max()) <= 1  # of a symmetric density: mirrored


def test_logit_normal_is_the_distribution_of_a_sigmoid_of_a_normal():
    u = torch.sigmoid(
        0.7 + 0.9 * torch.randn(200_000, generator=generator("n"), dtype=torch.float64)
    )
    for place in (0.2, 0.5, 0.8):
        expected = float((u <= place).double().mean())
        found = float(LogitNormal(0.7, 0.9).cdf(torch.tensor(place)))
        assert found == pytest.approx(expected, abs=0.005)


def test_mode_is_the_distribution_of_sd3_s_formula():
    r = torch.rand(200_000, generator=generator("r"), dtype=torch.float64)
    u = 1 - r - 1.29 * ((math.pi * r / 2).cos().square() - 1 + r)
    for place in (0.1, 0.4, 0.9):
        expected = float((u <= place).double().mean())
        assert float(Mode(1.29).cdf(torch.tensor(place))) == pytest.approx(expected, abs=0.005)


def test_densities_work_with_every_sampler_of_timesteps():
    ranges = [TimestepRange(0, 300), TimestepRange(300, 1000)]
    density = LogitNormal(1.0, 0.5)
    inside = TimestepRange(0, 300)
    t = ProbabilisticSampler(inside, 1000, 0.5, density=density)(20_000, generator("p"))
    everywhere = float(density.cdf(torch.tensor(0.3)))
    expected = 0.5 + 0.5 * everywhere  # of the own range, and of all
    assert float((t < 300).double().mean()) == pytest.approx(expected, abs=0.02)
    t = StratifiedSampler(TimestepRange(0, 1000), ranges, density=density)(100, generator("s"))
    assert int((t < 300).sum()) == 50
    assert float(t[t < 300].double().mean()) > 200  # most of it near the upper border


@pytest.mark.parametrize(
    "make",
    [lambda: LogitNormal(0, 0), lambda: LogitNormal(math.inf), lambda: Mode(2), lambda: Mode(-1.1)],
)
def test_impossible_densities_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_a_range_without_probability_is_refused():
    with pytest.raises(ValueError, match=r"no probability"):
        RangeSampler(TimestepRange(0, 10), 1000, density=LogitNormal(5.0, 0.1))


def test_ranges_by_noise_level():
    schedule = FlowSchedule(1000, 3.0)
    for item, low in zip(equal_levels(4, schedule), (0, 0.25, 0.5, 0.75), strict=True):
        s = schedule.sigma[item.low : item.high]
        assert low <= float(s.min())
        assert float(s.max()) < low + 0.25 or item.high == 1000
    wan = from_levels([0, 0.875, 1], FlowSchedule(1000))
    assert [str(item) for item in wan] == ["[0, 874)", "[874, 1000)"]  # s = 0.875 itself is above
    assert float(FlowSchedule(1000).sigma[874]) == 0.875
    for bad in ([0.1, 1], [0, 0.5], [0, 0.6, 0.5, 1], [0, 0.5, 0.5, 1]):
        with pytest.raises(ValueError, match="rise from 0 to 1"):
            from_levels(bad, schedule)
    with pytest.raises(ValueError, match="no timestep lies between"):
        from_levels([0, 0.0001, 1], schedule)


@pytest.mark.parametrize("shift", [None, 1.0, 6.0])
def test_ranges_in_which_a_sampler_takes_equally_many_steps(shift):
    config = {**EULER, "shift": 3.0}
    sampler = FlowEuler(28, shift)
    ranges = equal_sampler_steps(4, sampler, 1000, config)
    steps = sampler.steps(sampler.scheduler(config), config)
    assert [sum(item.low <= max(step.t, 0) < item.high for step in steps) for item in ranges] == [
        7
    ] * 4
    if shift == 6.0:  # more steps near the noise: smaller ranges there
        assert len(ranges[-1]) < len(ranges[0])
    with pytest.raises(ValueError, match="too few"):
        equal_sampler_steps(4, FlowEuler(3), 1000, config)


def test_steps_know_where_they_are_in_training():
    config = {**EULER, "shift": 3.0}
    steps = FlowEuler(28).steps(FlowEuler(28).scheduler(config), config)
    schedule = FlowSchedule(1000, 3.0)
    assert steps[0] == (1000.0, 999.0)
    for step in steps:
        t = torch.tensor([step.t], dtype=torch.float64)
        assert float(schedule.timestep_input(t)) == pytest.approx(step.scheduler_timestep, rel=2e-7)


@pytest.mark.parametrize(
    ("make", "stock"),
    [(FlowEuler, FlowMatchEulerDiscreteScheduler), (FlowHeun, FlowMatchHeunDiscreteScheduler)],
)
@pytest.mark.parametrize("shift", SHIFTS)
def test_samples_are_those_of_the_stock_scheduler_s_loop(make, stock, shift):
    config = {**EULER, "shift": shift}
    schedule = FlowSchedule(1000, shift)
    center = torch.full((1, 1, 4, 4), 0.5)

    def flow(x, s):  # of a Gaussian around the center with variance 1/4, exactly
        s = s.view(-1, 1, 1, 1)
        variance = (1 - s).square() / 4 + s.square()
        mean = x - (1 - s) * center
        return s * mean / variance - (center + (1 - s) / 4 * mean / variance)

    def network(x, t):
        return flow(x, schedule.timestep_input(t) / 1000)

    found = torch.cat(list(generate(network, config, (1, 4, 4), make(10), 3, range(4), 2)))
    scheduler = stock(shift=shift)
    scheduler.set_timesteps(10)
    from deme.data.pixels import to_uint8
    from deme.diffusion import image_generator

    x = torch.stack([torch.randn(1, 4, 4, generator=image_generator(3, i)) for i in range(4)])
    for time in scheduler.timesteps:
        x = scheduler.step(flow(x, time.expand(4) / 1000), time, x).prev_sample
    assert int((found.int() - to_uint8(x).int()).abs().max()) <= 1
    assert float((found.float() - to_uint8(x).float()).abs().mean()) < 0.05


def test_experts_of_a_flow_take_over_at_the_border():
    config = {**EULER, "shift": 3.0}
    schedule, seen = FlowSchedule(1000, 3.0), {0: [], 1: []}

    def expert(index):
        def network(x, t):
            seen[index] += schedule.sigma_at(t).tolist()
            return x

        return network

    ranges = from_levels([0, 0.75, 1], schedule)
    routed = RoutedModel([expert(0), expert(1)], ranges, 1000)
    list(generate(routed, config, (1, 2, 2), FlowEuler(8), 0, [0], 1))
    assert len(seen[0]) + len(seen[1]) == 8
    assert max(seen[0]) < 0.75 <= min(seen[1]) + 1e-9


def test_a_sampler_of_the_other_kind_is_refused():
    with pytest.raises(BadConfig, match="type: sampler=flow_euler"):
        DDIM(5).scheduler(EULER)
    with pytest.raises(BadConfig, match="type: sampler=ddim"):
        FlowEuler(5).scheduler({"_class_name": "DDPMScheduler"})
    with pytest.raises(BadConfig, match=r"type: sampler.shift="):
        FlowEuler(5).scheduler({**EULER, "use_dynamic_shifting": True})
    assert (
        len(FlowEuler(5, shift=2.0).scheduler({**EULER, "use_dynamic_shifting": True}).timesteps)
        == 5
    )
    with pytest.raises(BadConfig, match="exceeds"):
        FlowEuler(1001).scheduler(EULER)
    for bad in (0, -1.0):
        with pytest.raises(BadConfig, match="positive"):
            FlowEuler(5, shift=bad)


@pytest.mark.parametrize(
    ("config", "shift"),
    [
        (EULER, 1.0),
        ({**EULER, "shift": 3.0}, 3.0),
        ({**EULER, "shift": 3.0, "use_dynamic_shifting": True}, 1.0),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 2.0}, 2.0),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0,
          "prediction_type": "flow_prediction"}, 3.0),
    ],
)  # fmt: skip
def test_what_a_scheduler_s_config_says_of_a_flow(config, shift):
    schedule, kind = schedule_of(config)
    assert isinstance(schedule, FlowSchedule)
    assert (schedule.shift, kind) == (
        shift,
        "flow_prediction",
    )
    assert noise_of(config)["shift"] == shift


def test_shifting_is_undone_by_its_inverse():
    s = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(shift_sigmas(shift_sigmas(s, 3.0), 1 / 3.0), s, rtol=0, atol=1e-12)
    assert [round(float(shift_sigmas(torch.tensor(q), 3.0)), 3) for q in (0.25, 0.5, 0.75)] == [
        0.5,
        0.75,
        0.9,
    ]
    for bad in ((0, 1.0), (10, 0.0), (10, -1.0)):
        with pytest.raises(ValueError, match="got"):
            FlowSchedule(*bad)
