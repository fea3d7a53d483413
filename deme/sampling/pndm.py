"""PNDM (Liu et al. 2022) without its Runge-Kutta start: the sampler of Stable Diffusion."""

from collections.abc import Mapping

from diffusers import PNDMScheduler, SchedulerMixin

from deme.sampling.sampler import BetaSampler
from deme.system import BadConfig


class PNDM(BetaSampler):
    """Settings of a PLMS run through diffusers' scheduler.

    It calls the network once more than it has steps. `steps_offset`: 1 as Stable Diffusion's. The
    last step goes to the least noise of the schedule, or with `set_alpha_to_one` to none.
    """

    scheduler_class = PNDMScheduler

    def __init__(
        self, num_inference_steps: int = 25, steps_offset: int = 1, set_alpha_to_one: bool = False
    ) -> None:
        super().__init__(
            num_inference_steps,
            "leading",  # diffusers steps by T // S whatever the grid is
            skip_prk_steps=True,
            steps_offset=steps_offset,
            set_alpha_to_one=set_alpha_to_one,
        )
        if num_inference_steps < 4:
            raise BadConfig(
                "PNDM extrapolates from four steps; sampler.num_inference_steps must be "
                f"at least 4, got {num_inference_steps}"
            )

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return diffusers' scheduler with its grid of timesteps set."""
        if scheduler_config.get("prediction_type") == "sample":
            raise BadConfig("PNDM takes networks that predict epsilon or v\ntype: sampler=ddim")
        if scheduler_config.get("rescale_betas_zero_snr"):
            raise BadConfig(
                "PNDM cannot sample with a noise schedule that ends at zero SNR, as this model's\n"
                "type: sampler=ddim_latent"
            )
        if scheduler_config.get("thresholding"):
            raise BadConfig(
                "this model's scheduler asks for thresholding, which PNDM does not have\n"
                "type: sampler=ddim"
            )
        return super().scheduler(scheduler_config)
