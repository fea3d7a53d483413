"""The bases of samplers: settings that make a diffusers scheduler for a noise schedule."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from diffusers import DDPMScheduler, SchedulerMixin

from deme.models.layout import is_flow
from deme.system import BadConfig

SPACINGS = ("leading", "trailing", "linspace")
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # that every class of diffusers knows


class Step(NamedTuple):
    """A step of a sampler: its timestep for the scheduler, and for the noise schedule."""

    scheduler_timestep: float
    t: float


class Sampler(ABC):
    """Settings of a scheduler of diffusers: `settings` are arguments of its class.

    `step_options` are further arguments of its `step`. Noise that a step adds comes from each
    image's generator. Raises BadConfig for settings that are impossible for every model.
    """

    scheduler_class: ClassVar[type[SchedulerMixin]]
    step_options: Mapping[str, float] = {}

    def __init__(self, num_inference_steps: int, **settings: object) -> None:
        if num_inference_steps < 1:
            raise BadConfig(
                f"sampler.num_inference_steps must be at least 1, got {num_inference_steps}"
            )
        self.num_inference_steps = num_inference_steps
        self.settings = settings

    @abstractmethod
    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return a fresh scheduler of diffusers for a model, with its steps set.

        A scheduler may remember steps, so each batch has its own. Raises BadConfig for a model that
        it cannot sample from.
        """

    def steps(
        self,
        scheduler: SchedulerMixin,
        scheduler_config: Mapping[str, object],  # noqa: ARG002
    ) -> list[Step]:
        """Return the steps of a scheduler that this sampler made for a model, in their order.

        A step is what the scheduler calls its timestep, and the timestep of the model's noise
        schedule, which is the same unless a sampler says otherwise.
        """
        return [Step(t, t) for t in scheduler.timesteps.tolist()]


class BetaSampler(Sampler):
    """A sampler of variance-preserving diffusion, whose noise schedule has T betas."""

    def __init__(self, num_inference_steps: int, timestep_spacing: str, **settings: object) -> None:
        if timestep_spacing not in SPACINGS:
            raise BadConfig(
                f"sampler.timestep_spacing must be one of {', '.join(SPACINGS)}, "
                f"got {timestep_spacing!r}"
            )
        super().__init__(num_inference_steps, timestep_spacing=timestep_spacing, **settings)

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return a fresh scheduler of diffusers with its grid of timesteps set.

        Its betas are the model's own, also those that diffusers knows in its DDPMScheduler alone.
        Raises BadConfig for a flow-matching model, for more steps than the model has timesteps, for
        an offset that moves the grid beyond them, for a grid that starts at low noise, and for a
        start where the noise that a network predicts does not say what the image is.
        """
        given = dict(scheduler_config)
        if is_flow(given):
            raise BadConfig(
                f"{type(self).__name__} is a sampler of diffusion models whose noise schedule has "
                "betas, and this model is of flow matching\ntype: sampler=flow_euler"
            )
        if given.get("trained_betas") is None and given.get("beta_schedule") not in SCHEDULES:
            plain = DDPMScheduler.from_config({**given, "rescale_betas_zero_snr": False})
            given["trained_betas"] = plain.betas.tolist()
        scheduler = self.scheduler_class.from_config(given, **self.settings)
        limit = scheduler.config["num_train_timesteps"]
        if self.num_inference_steps > limit:
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} exceeds the model's "
                f"{limit} timesteps"
            )
        scheduler.set_timesteps(self.num_inference_steps)
        _drop_negative(scheduler)
        if (highest := int(scheduler.timesteps.max())) >= limit:
            raise BadConfig(
                f"sampler.steps_offset={scheduler.config['steps_offset']} moves the grid up to "
                f"t = {highest}, the model has t < {limit}\n"
                "type: sampler.steps_offset=0, or fewer sampler.num_inference_steps"
            )
        self.check_start(highest, limit)
        no_signal = given.get("rescale_betas_zero_snr") or scheduler.alphas_cumprod[-1] == 0
        if no_signal and highest == limit - 1 and scheduler.config["prediction_type"] == "epsilon":
            raise BadConfig(
                f"at t = {highest} this model's noise schedule leaves no signal (alpha_bar = 0), "
                "and a prediction of the noise says nothing about the image there\n"
                "type: sampler.timestep_spacing=leading, or use a model that predicts v"
            )
        return scheduler

    def check_start(self, highest: int, limit: int) -> None:
        """Raise BadConfig for a grid that starts in the lower half of the noise levels.

        What it makes is noise. All grids of one step but trailing's do so. `limit` is the model's
        number of timesteps.
        """
        if highest < limit // 2:
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} starts at t = {highest}, "
                "where a network expects an image with little noise; sampling starts from noise\n"
                "type: sampler.timestep_spacing=trailing, or another sampler.num_inference_steps"
            )


def _drop_negative(scheduler: SchedulerMixin) -> None:
    """Drop the timestep -1, which diffusers' trailing grid has where T / S is rounded up."""
    if int(scheduler.timesteps[-1]) >= 0:
        return
    scheduler.timesteps = scheduler.timesteps[:-1]
    scheduler.num_inference_steps = len(scheduler.timesteps)
    if hasattr(scheduler, "sigmas"):  # one for each timestep, and the last
        scheduler.sigmas = torch.cat([scheduler.sigmas[:-2], scheduler.sigmas[-1:]])
