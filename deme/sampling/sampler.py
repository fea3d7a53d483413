"""The base of samplers: settings that make a diffusers scheduler for a noise schedule."""

from collections.abc import Mapping
from typing import ClassVar

from diffusers import SchedulerMixin

from deme.system import BadConfig

SPACINGS = ("leading", "trailing", "linspace")


class Sampler:
    """Settings of a scheduler of diffusers: `settings` are arguments of its class.

    `step_options` are further arguments of its `step`. Noise that a step adds comes from each
    image's generator. Raises BadConfig for settings that are impossible for every model.
    """

    scheduler_class: ClassVar[type[SchedulerMixin]]
    step_options: Mapping[str, float] = {}

    def __init__(self, num_inference_steps: int, timestep_spacing: str, **settings: object) -> None:
        if num_inference_steps < 1:
            raise BadConfig(
                f"sampler.num_inference_steps must be at least 1, got {num_inference_steps}"
            )
        if timestep_spacing not in SPACINGS:
            raise BadConfig(
                f"sampler.timestep_spacing must be one of {', '.join(SPACINGS)}, "
                f"got {timestep_spacing!r}"
            )
        self.num_inference_steps = num_inference_steps
        self.settings = {"timestep_spacing": timestep_spacing, **settings}

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return a fresh scheduler of diffusers with its grid of timesteps set.

        A scheduler may remember steps, so each batch has its own. Raises BadConfig for more steps
        than the model has timesteps, and for an offset that moves the grid beyond them.
        """
        scheduler = self.scheduler_class.from_config(dict(scheduler_config), **self.settings)
        limit = scheduler.config["num_train_timesteps"]
        if self.num_inference_steps > limit:
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} exceeds the model's "
                f"{limit} timesteps"
            )
        scheduler.set_timesteps(self.num_inference_steps)
        if (highest := int(scheduler.timesteps.max())) >= limit:
            raise BadConfig(
                f"sampler.steps_offset={scheduler.config['steps_offset']} moves the grid up to "
                f"t = {highest}, the model has t < {limit}\n"
                "type: sampler.steps_offset=0, or fewer sampler.num_inference_steps"
            )
        return scheduler
