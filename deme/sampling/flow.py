"""Samplers of flow matching (Lipman et al. 2023), through diffusers' schedulers.

They integrate dx / ds = eps - x_0, which the network predicts, from noise at s = 1 to an image.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
)

from deme.diffusion import FlowSchedule
from deme.models.layout import is_flow
from deme.models.noise import schedule_of
from deme.sampling.sampler import Sampler, Step
from deme.system import BadConfig

DIGITS = 6  # of a step's timestep: what its way through float32 leaves


class FlowEuler(Sampler):
    """Euler's method. `shift` replaces the checkpoint's shift of the steps towards noise.

    Where training had another shift, the steps lie between the timesteps of training.
    """

    scheduler_class: ClassVar[type[SchedulerMixin]] = FlowMatchEulerDiscreteScheduler

    def __init__(self, num_inference_steps: int = 28, shift: float | None = None) -> None:
        super().__init__(num_inference_steps)
        if shift is not None and not shift > 0:
            raise BadConfig(f"sampler.shift must be null or positive, got {shift}")
        self.shift = shift

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return a fresh scheduler of diffusers with its steps set.

        Raises BadConfig for a model that is not of flow matching, for one whose shift depends on
        the size of images, unless `shift` is given, and for more steps than it has timesteps.
        """
        if not is_flow(scheduler_config):
            raise BadConfig(
                f"{type(self).__name__} is a sampler of flow-matching models, and the noise "
                "schedule of this model has betas\ntype: sampler=ddim"
            )
        schedule, _ = schedule_of(dict(scheduler_config))
        assert isinstance(schedule, FlowSchedule)
        limit = schedule.num_timesteps
        if self.num_inference_steps > limit:
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} exceeds the model's "
                f"{limit} timesteps"
            )
        stock = cast(Mapping[str, Any], scheduler_config.get("sampling", {}))
        shift = self.shift or stock.get("shift")
        if scheduler_config.get("use_dynamic_shifting") and shift is None:
            raise BadConfig(
                "this model's scheduler shifts its steps by the size of the images "
                "(use_dynamic_shifting)\ntype: sampler.shift=3, or another positive number"
            )
        known = inspect.signature(self.scheduler_class).parameters
        static = {"shift": shift or schedule.shift, "use_dynamic_shifting": False}
        given = {**scheduler_config, **static, "num_train_timesteps": limit}
        made = self.scheduler_class(**{n: value for n, value in given.items() if n in known})
        count = self.num_inference_steps
        takes_sigmas = "sigmas" in inspect.signature(made.set_timesteps).parameters
        if stock.get("spacing") == "trailing" and takes_sigmas:
            made.set_timesteps(sigmas=torch.linspace(1, 1 / count, count).tolist())
        else:
            made.set_timesteps(count)
        return made

    def steps(
        self, scheduler: SchedulerMixin, scheduler_config: Mapping[str, object]
    ) -> list[Step]:
        """Return the steps; their timesteps for the noise schedule are mostly fractions."""
        times = scheduler.timesteps.double()
        schedule, _ = schedule_of(dict(scheduler_config))
        places = schedule.timestep_of_input(times).tolist()
        pairs = zip(times.tolist(), places, strict=True)
        return [Step(time, round(t, DIGITS)) for time, t in pairs]


class FlowHeun(FlowEuler):
    """Heun's method of second order: two evaluations of the network for each step but the last."""

    scheduler_class: ClassVar[type[SchedulerMixin]] = FlowMatchHeunDiscreteScheduler
