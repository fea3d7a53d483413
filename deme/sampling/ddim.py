"""The deterministic sampler of the paper's tables (Song et al. 2021, DDIM; eta = 0), through diffusers' scheduler."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from deme.errors import BadConfig

SPACINGS = ("leading", "trailing", "linspace")


class DDIM:
    """Settings of a DDIM run. The noise schedule and the prediction type come from the model's scheduler config."""

    def __init__(
        self, num_inference_steps: int = 50, clip_sample: bool = True, timestep_spacing: str = "leading"
    ) -> None:
        if num_inference_steps < 1:
            raise BadConfig(f"sampler.num_inference_steps must be at least 1, got {num_inference_steps}")
        if timestep_spacing not in SPACINGS:
            raise BadConfig(f"sampler.timestep_spacing must be one of {', '.join(SPACINGS)}, got {timestep_spacing!r}")
        self.num_inference_steps = num_inference_steps
        self.clip_sample = clip_sample
        self.timestep_spacing = timestep_spacing

    def scheduler(self, scheduler_config: Mapping[str, Any]) -> DDIMScheduler:
        """Return diffusers' scheduler with its grid of timesteps set."""
        scheduler = DDIMScheduler.from_config(
            dict(scheduler_config),
            clip_sample=self.clip_sample,
            timestep_spacing=self.timestep_spacing,
            set_alpha_to_one=True,
            steps_offset=0,
        )
        limit = scheduler.config["num_train_timesteps"]
        if self.num_inference_steps > limit:
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} exceeds the model's {limit} timesteps"
            )
        scheduler.set_timesteps(self.num_inference_steps)
        return scheduler
