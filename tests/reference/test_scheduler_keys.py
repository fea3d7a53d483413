"""What a checkpoint's scheduler config says is honoured or refused by every sampler, on every grid."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from deme.diffusion import NoiseSchedule
from deme.sampling.ddim import DDIM
from deme.sampling.ddpm import DDPM
from deme.sampling.dpm_solver import DPMSolver
from deme.sampling.pndm import PNDM
from deme.system.errors import BadConfig

# The prediction is a fixed function of x_t and t: no network would show more.
SAMPLERS = {
    "ddim": DDIM(7),
    "ddim trailing": DDIM(7, timestep_spacing="trailing"),
    "ddim linspace": DDIM(7, timestep_spacing="linspace"),
    "ddim quadratic": DDIM(7, skip_type="quadratic"),
    "ddim without clipping": DDIM(7, clip_sample=False),
    "ddpm": DDPM(7),
    "ddpm trailing": DDPM(7, timestep_spacing="trailing"),
    "dpm-solver++": DPMSolver(7),
    "pndm": PNDM(7),
}
# A value of every key that is not its default, and what it needs beside it to have an effect.
BETAS = torch.linspace(1e-4, 0.03, 1000).tolist()
OTHER = {
    "num_train_timesteps": (900, {}),
    "beta_start": (3e-4, {}),
    "beta_end": (0.03, {}),
    "beta_schedule": ("sigmoid", {}),
    "trained_betas": (BETAS, {}),
    "variance_type": ("fixed_large", {}),
    "clip_sample": (False, {}),
    "clip_sample_range": (0.3, {"clip_sample": True}),
    "prediction_type": ("v_prediction", {}),
    "thresholding": (True, {"sample_max_value": 3.0}),
    "dynamic_thresholding_ratio": (0.5, {"thresholding": True, "sample_max_value": 3.0}),
    "sample_max_value": (3.0, {"thresholding": True}),
    "timestep_spacing": ("linspace", {}),
    "steps_offset": (3, {}),
    "rescale_betas_zero_snr": (True, {"prediction_type": "v_prediction"}),
    "set_alpha_to_one": (False, {}),
    "skip_prk_steps": (False, {}),
    "solver_order": (1, {}),
    "algorithm_type": ("sde-dpmsolver++", {}),
    "solver_type": ("heun", {}),
    "lower_order_final": (False, {}),
    "euler_at_final": (True, {}),
    "use_karras_sigmas": (True, {}),
    "use_exponential_sigmas": (True, {}),
    "use_beta_sigmas": (True, {}),
    "use_lu_lambdas": (True, {}),
    "use_flow_sigmas": (True, {"prediction_type": "flow_prediction"}),
    "flow_shift": (3.0, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    "final_sigmas_type": ("sigma_min", {}),
    "lambda_min_clipped": (-1.0, {}),
    "use_dynamic_shifting": (True, {"use_flow_sigmas": True}),
    "time_shift_type": ("linear", {"use_dynamic_shifting": True, "use_flow_sigmas": True}),
}


# Keys that can have no effect on any model that is loaded here.
INERT = {
    "lower_order_final",  # a last step to zero noise, final_sigmas_type=zero, is of first order
    "euler_at_final",
    "variance_type",  # of a deterministic sampler; learned variances are refused with the model
    "use_dynamic_shifting",  # of flow matching, which is refused with the model
    "time_shift_type",
}


def sampled(sampler, config):
    """Return x_0 of a sampler run, float32."""
    scheduler = sampler.scheduler(config)
    x = 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    options = dict(sampler.step_options)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = draw
    for t in scheduler.timesteps.tolist():
        prediction = x.sin() + t / 1000
        x = scheduler.step(prediction, t, x, **options).prev_sample
    return x


KEYS = [
    (name, key)
    for name, sampler in SAMPLERS.items()
    for key in dict.fromkeys(
        ["thresholding", *inspect.signature(sampler.scheduler_class).parameters]
    )
    if not (isinstance(sampler, DPMSolver) and key in INERT)
    if not (name == "ddim without clipping" and key == "clip_sample_range")
]


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_key_is_honoured_refused_or_an_option_of_the_sampler(name, key):
    sampler, (value, beside) = SAMPLERS[name], OTHER[key]
    try:
        changed = sampled(sampler, {**beside, key: value})
        usual = sampled(sampler, beside)
    except BadConfig:
        return
    assert bool(changed.isfinite().all())
    assert torch.equal(changed, usual) == (key in sampler.settings)


def quantile_loop(config, grid):
    """Return x_0 of deterministic DDIM in float64 with thresholding (Saharia et al. 2022)."""
    alpha_bar = DDPMScheduler.from_config(config).alphas_cumprod.double()
    x = 2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for t, following in zip(grid, [*grid[1:], None], strict=True):
        now = alpha_bar[t]
        then = alpha_bar[following] if following is not None else torch.tensor(1.0).double()
        eps = x.sin() + t / 1000
        x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        limit = x0.abs().flatten(1).quantile(config["dynamic_thresholding_ratio"], dim=1)
        limit = limit.clamp(1, config["sample_max_value"])[:, None, None, None]
        x0 = x0.clamp(-limit, limit) / limit
        x = then.sqrt() * x0 + (1 - then).sqrt() * eps
    return x


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(30, timestep_spacing="leading"),
        DDIM(30, timestep_spacing="trailing"),
        DDIM(25, timestep_spacing="trailing"),
        DDIM(30, timestep_spacing="linspace"),
        DDIM(30, skip_type="quadratic"),
    ],
)
def test_thresholding_is_the_quantile_rule_on_every_grid(sampler):
    config = {
        "thresholding": True,
        "sample_max_value": 3.0,
        "dynamic_thresholding_ratio": 0.9,
        "num_train_timesteps": 1000,
    }
    grid = sampler.scheduler(config).timesteps.tolist()
    torch.testing.assert_close(
        sampled(sampler, config).double(), quantile_loop(config, grid), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])  # fmt: skip
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("sampler", [DDIM(10), DDPM(10), DPMSolver(10), PNDM(10)])
def test_betas_are_the_models_own(sampler, schedule, zero_snr):
    config = {
        "beta_schedule": schedule,
        "rescale_betas_zero_snr": zero_snr,
        "prediction_type": "v_prediction",
    }
    own = DDPMScheduler.from_config(config).alphas_cumprod
    try:
        scheduler = sampler.scheduler(config)
    except BadConfig:
        assert zero_snr
        assert isinstance(sampler, PNDM)
        return
    found = scheduler.alphas_cumprod.clone()
    if zero_snr and isinstance(sampler, DPMSolver):
        found[-1] = 0  # diffusers puts 2^-24 there, whose logarithm is finite
    torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "works"),
    [
        (lambda spacing: DDIM(20, timestep_spacing=spacing), "leading"),
        (lambda spacing: DDPM(20, timestep_spacing=spacing), "leading"),
        (lambda spacing: DPMSolver(20, timestep_spacing=spacing), "leading"),
    ],
)
def test_noise_cannot_be_predicted_where_there_is_no_signal(make, works):
    config = {"rescale_betas_zero_snr": True}
    for spacing in {"trailing", "linspace"} - {works}:
        with pytest.raises(BadConfig, match=f"sampler\\.timestep_spacing={works}"):
            make(spacing).scheduler(config)
        v = sampled(make(spacing), {**config, "prediction_type": "v_prediction"})
        assert bool(v.isfinite().all())
    assert bool(sampled(make(works), config).isfinite().all())


def test_a_grid_that_stays_at_a_noise_level_is_refused():
    with pytest.raises(BadConfig, match=r"type: sampler\.num_inference_steps=20"):
        DPMSolver(1000, timestep_spacing="linspace").scheduler({})
    with pytest.raises(BadConfig, match=r"starts at t = 0, .*\n.*timestep_spacing=trailing"):
        DPMSolver(1000, timestep_spacing="leading").scheduler({})
    assert bool(sampled(DPMSolver(999, timestep_spacing="linspace"), {}).isfinite().all())


@pytest.mark.parametrize("schedule", ["sigmoid", "laplace"])
def test_the_noise_schedule_of_one_class_can_be_trained(schedule):
    assert NoiseSchedule.variance_preserving(
        DDPMScheduler.from_config({"beta_schedule": schedule}).alphas_cumprod
    ).num_timesteps == 1000  # fmt: skip


@pytest.mark.parametrize("make", [DDIM, DDPM])
def test_a_trailing_grid_has_every_number_of_steps(make):
    """T / S rounds up for 62 numbers of steps, where diffusers' grid goes on to t = -1."""
    rounded_up = [s for s in range(1, 1001) if len(np.arange(1000, 0, -1000 / s)) > s]
    assert len(rounded_up) == 62
    for steps in (1, 2, 3, 7, 30, 60, 999, 1000, *rounded_up):
        grid = make(steps, timestep_spacing="trailing").scheduler({}).timesteps
        assert (len(grid), int(grid[0])) == (steps, 999)
        assert int(grid[-1]) >= 0
        assert bool((grid.diff() < 0).all())


@pytest.mark.parametrize("make", [DDIM, DDPM, DPMSolver])
def test_the_last_step_of_a_trailing_grid_ends_without_noise(make):
    sampler = make(61, timestep_spacing="trailing")
    scheduler = sampler.scheduler({})
    x0 = torch.full((1, 1, 2, 2), 0.25)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = scheduler.add_noise(x0, noise, scheduler.timesteps[:1])
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t]
        perfect = (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        options = {"generator": torch.Generator().manual_seed(1)} if make is DDPM else {}
        x = scheduler.step(perfect, t, x, **options).prev_sample
    torch.testing.assert_close(x, x0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampler", [DDIM(1), DDIM(1, timestep_spacing="linspace"), DDPM(1), DDIM(1, skip_type="quadratic"), DDIM(1, timestep_spacing="trailing", skip_type="quadratic")])  # fmt: skip
def test_one_step_starts_at_the_highest_noise_or_is_refused(sampler):
    with pytest.raises(BadConfig, match=r"sampler\.timestep_spacing=trailing"):
        sampler.scheduler({})
    assert DDIM(1, timestep_spacing="trailing").scheduler({}).timesteps.tolist() == [999]
