"""Ancestral sampling (Ho et al. 2020), the paper's eqs. 1 and 7, through diffusers' scheduler."""

from collections.abc import Mapping

from diffusers import DDPMScheduler, SchedulerMixin

from deme.sampling.sampler import BetaSampler
from deme.system import BadConfig

LEARNED = ("learned", "learned_range")
VARIANCES = ("fixed_small", "fixed_large")


class DDPM(BetaSampler):
    """Settings of a DDPM run.

    `variance_type`: fixed_large (beta_t), fixed_small (the posterior's), or None for that of the
    checkpoint.
    """

    scheduler_class = DDPMScheduler

    def __init__(
        self,
        num_inference_steps: int = 1000,
        variance_type: str | None = None,
        clip_sample: bool = True,
        timestep_spacing: str = "leading",
    ) -> None:
        if variance_type not in (None, *VARIANCES):
            raise BadConfig(
                f"sampler.variance_type must be null or one of {', '.join(VARIANCES)}, "
                f"got {variance_type!r}"
            )
        variance = {} if variance_type is None else {"variance_type": variance_type}
        super().__init__(
            num_inference_steps,
            timestep_spacing,
            clip_sample=clip_sample,
            steps_offset=0,
            **variance,
        )

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return diffusers' scheduler with its grid of timesteps set.

        Raises BadConfig for a learned variance, which networks return and no sampler here reads.
        """
        if (
            scheduler_config.get("variance_type") in LEARNED
            and "variance_type" not in self.settings
        ):
            raise BadConfig(
                "this model's scheduler has a learned variance, which is not used here\n"
                "type: sampler.variance_type=fixed_large, or sampler=ddim"
            )
        return super().scheduler(scheduler_config)
