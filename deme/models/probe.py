"""The prediction type, noise schedule and value range that a model's weights fit.

The weights are asked, not the config.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from deme.diffusion import (
    EMPTY_CONDITION,
    PREDICTION_TYPES,
    Condition,
    FlowSchedule,
    Network,
    NoiseSchedule,
    bind_condition,
    generator,
    moved,
    rows_of,
)

# DDPMScheduler's settings for DDPM, latent diffusion, and Nichol and Dhariwal (2021)
USUAL: Mapping[str, Mapping[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
STATED_RANGE = "-1..1"
VALUE_RANGES = {STATED_RANGE: (1.0, 0.0), "0..1": (0.5, 0.5)}  # scale and shift of pixels in -1..1
# signal variance over noise variance: where eps, x0 and v tell each other exactly enough
LEVELS = (0.1, 10.0)
# how much better another hypothesis must explain the images to contradict the stated one
MARGIN = 1.2
FEWEST = 250  # timesteps from which on the usual betas reach the noise that is asked about
SIGNIFICANT = 5.0  # standard errors
# unexplained share from which on a model knows nothing: shrinking x_t to the mean leaves 0.5
KNOWS_NOTHING = 0.45


@dataclass(frozen=True)
class Hypothesis:
    """How a network may have been trained."""

    prediction_type: str
    schedule: str
    value_range: str


@dataclass(frozen=True)
class Fit:
    """The share of the images' variance that the network, so read, leaves unexplained.

    `shares` are those of each image [M], `unexplained` is their mean.
    """

    hypothesis: Hypothesis
    shares: Tensor

    @property
    def unexplained(self) -> float:
        """0: x_0 is known exactly; 1: no better than the mean of all pixels."""
        return float(self.shares.mean())


def usual_schedule(name: str, num_timesteps: int) -> NoiseSchedule:
    """Return a schedule of USUAL, as diffusers computes it."""
    scheduler = DDPMScheduler(num_timesteps, **USUAL[name])
    return NoiseSchedule.variance_preserving(scheduler.alphas_cumprod)


def known_schedules(own: NoiseSchedule) -> dict[str, NoiseSchedule]:
    """Return the model's own schedule as "its own" and the usual ones that differ from it.

    Straight paths of flow matching differ by their shift alone, which is no input of a network.
    """
    total = own.num_timesteps
    if total < FEWEST:
        return {"its own": own}
    usual = {name: usual_schedule(name, total) for name in USUAL}
    far = {
        n: s
        for n, s in usual.items()
        if float((s.equivalent_alpha_bar - own.equivalent_alpha_bar).abs().max()) > 0.02
    }
    flow = {} if isinstance(own, FlowSchedule) else {"flow": FlowSchedule(total)}
    return {"its own": own, **far, **flow}


@torch.inference_mode()
def probe(
    network: Network,
    schedules: Mapping[str, NoiseSchedule],
    images: Tensor,
    device: str,
    batch_size: int = 64,
    condition: Condition = EMPTY_CONDITION,
) -> list[Fit]:
    """Let the network denoise images under every hypothesis; return the fits, best first.

    `images` are [M, C, H, W], in -1..1 or latents.
    Every image has one noise level, which is the same signal-to-noise ratio under all hypotheses,
    so that their errors compare: only the input of the network differs. The first of `schedules` is
    the model's own, and is tried with every value range.
    """
    draw = generator("passport", len(images))
    low, high = (math.log10(level) for level in LEVELS)
    levels = torch.logspace(low, high, len(images), dtype=torch.float64)
    levels = levels[torch.randperm(len(images), generator=draw)]
    eps = torch.randn(images.shape, generator=draw)
    fits: list[Fit] = []
    own = next(iter(schedules.values()))

    def call_network(x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        prediction: Tensor = bind_condition(network, condition)(x_t, own.timestep_of_input(time))
        return prediction.float()

    for name, schedule in schedules.items():
        for value_range in [STATED_RANGE] if fits else VALUE_RANGES:
            scale, shift = VALUE_RANGES[value_range]
            x0 = images * scale + shift
            shares = _shares(call_network, schedule, x0, eps, levels, device, batch_size, condition)
            fits += [Fit(Hypothesis(p, name, value_range), share) for p, share in shares.items()]
    return sorted(fits, key=lambda fit: fit.unexplained)


def _shares(
    call_network: Callable[[Tensor, Tensor, Condition], Tensor],
    schedule: NoiseSchedule,
    x0: Tensor,
    eps: Tensor,
    levels: Tensor,
    device: str,
    batch_size: int,
    condition: Condition,
) -> dict[str, Tensor]:
    variance = max(float(x0.double().var()), 1e-12)
    share = levels / (levels + variance)  # SNR variance = level
    t = (schedule.equivalent_alpha_bar[None] - share[:, None]).abs().argmin(1)
    known = [each for each in PREDICTION_TYPES if schedule.supports(each)]
    found: dict[str, list[Tensor]] = {prediction_type: [] for prediction_type in known}
    for first in range(0, len(x0), batch_size):
        rows = slice(first, first + batch_size)
        images, noise, times = (part[rows].to(device) for part in (x0, eps, t))
        x_t = schedule.add_noise(images, noise, times)
        given = moved(rows_of(condition, rows), device)
        prediction = call_network(x_t, schedule.timestep_input(times), given)
        for prediction_type in known:
            guess = schedule.predicted_x0(prediction_type, prediction, x_t, times)
            error = (guess - images).double().square().flatten(1).mean(1) / variance
            found[prediction_type].append(error.cpu())
    return {prediction_type: torch.cat(parts) for prediction_type, parts in found.items()}


def assess_fits(fits: Sequence[Fit], prediction_type: str) -> tuple[str, Fit]:
    """Compare what a checkpoint's config states to the best fit, image by image.

    Returns fits, contradicted or unclear (no hypothesis explains the images), and the stated fit.
    """
    hypothesis = Hypothesis(prediction_type, "its own", STATED_RANGE)
    stated = next(fit for fit in fits if fit.hypothesis == hypothesis)
    best = min(fits, key=lambda fit: fit.unexplained)
    if best.unexplained > KNOWS_NOTHING:
        return "unclear", stated
    gain = stated.shares - best.shares
    error = float(gain.std()) / math.sqrt(len(gain))
    contradicted = (
        stated.unexplained > MARGIN * best.unexplained and float(gain.mean()) > SIGNIFICANT * error
    )
    return "contradicted" if contradicted else "fits", stated
