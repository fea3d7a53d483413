"""The interface of samplers: settings that make a diffusers scheduler for a noise schedule."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from deme.system import BadConfig

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

SPACINGS = ("leading", "trailing", "linspace")


class Sampler(Protocol):
    """`scheduler` returns a fresh diffusers scheduler with its timesteps set.

    A scheduler may remember steps, so each batch has its own. `step_options` are further arguments
    of its `step`. Noise that a step adds comes from each image's generator.
    """

    num_inference_steps: int
    step_options: dict[str, float]

    def scheduler(self, scheduler_config: Mapping[str, object]) -> "SchedulerMixin": ...


def check_steps(num_inference_steps: int, timestep_spacing: str) -> None:
    """Raise BadConfig for settings that are impossible for every model."""
    if num_inference_steps < 1:
        raise BadConfig(
            f"sampler.num_inference_steps must be at least 1, got {num_inference_steps}"
        )
    if timestep_spacing not in SPACINGS:
        raise BadConfig(
            f"sampler.timestep_spacing must be one of {', '.join(SPACINGS)}, "
            f"got {timestep_spacing!r}"
        )


def make_scheduler(
    scheduler_class: "type[SchedulerMixin]",
    scheduler_config: Mapping[str, object],
    num_inference_steps: int,
    **settings: object,
) -> "SchedulerMixin":
    """Return diffusers' scheduler for a model's noise schedule, with its grid of timesteps set.

    Raises BadConfig for more steps than the model has timesteps, and for an offset that moves the
    grid beyond them.
    """
    scheduler = scheduler_class.from_config(dict(scheduler_config), **settings)
    limit = scheduler.config["num_train_timesteps"]
    if num_inference_steps > limit:
        raise BadConfig(
            f"sampler.num_inference_steps={num_inference_steps} exceeds the model's "
            f"{limit} timesteps"
        )
    scheduler.set_timesteps(num_inference_steps)
    if (highest := int(scheduler.timesteps.max())) >= limit:
        raise BadConfig(
            f"sampler.steps_offset={scheduler.config['steps_offset']} moves the grid up to "
            f"t = {highest}, the model has t < {limit}\n"
            "type: sampler.steps_offset=0, or fewer sampler.num_inference_steps"
        )
    return scheduler
