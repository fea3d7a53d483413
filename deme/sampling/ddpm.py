"""Ancestral sampling (Ho et al. 2020), the paper's eqs. 1 and 7, through diffusers' scheduler."""

from collections.abc import Mapping

from diffusers import DDPMScheduler

from deme.sampling.sampler import check_steps, make_scheduler
from deme.system import BadConfig

VARIANCES = ("fixed_small", "fixed_large")


class DDPM:
    """Settings of a DDPM run.

    `variance_type`: fixed_large (beta_t), fixed_small (the posterior's), or None for that of the
    checkpoint.
    """

    def __init__(
        self,
        num_inference_steps: int = 1000,
        variance_type: str | None = None,
        clip_sample: bool = True,
        timestep_spacing: str = "leading",
    ) -> None:
        check_steps(num_inference_steps, timestep_spacing)
        if variance_type not in (None, *VARIANCES):
            raise BadConfig(
                f"sampler.variance_type must be null or one of {', '.join(VARIANCES)}, "
                f"got {variance_type!r}"
            )
        self.num_inference_steps = num_inference_steps
        self.step_options: dict[str, float] = {}
        self.settings = {"clip_sample": clip_sample, "timestep_spacing": timestep_spacing}
        if variance_type is not None:
            self.settings["variance_type"] = variance_type

    def scheduler(self, scheduler_config: Mapping[str, object]) -> DDPMScheduler:
        """Return diffusers' scheduler with its grid of timesteps set."""
        return make_scheduler(
            DDPMScheduler,
            scheduler_config,
            self.num_inference_steps,
            steps_offset=0,
            **self.settings,
        )
