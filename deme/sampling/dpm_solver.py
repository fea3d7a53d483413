"""DPM-Solver++ (Lu et al. 2022), multistep, through diffusers' scheduler."""

from collections.abc import Mapping

from diffusers import DPMSolverMultistepScheduler, SchedulerMixin

from deme.sampling.sampler import BetaSampler
from deme.system import BadConfig


class DPMSolver(BetaSampler):
    """Settings of a deterministic DPM-Solver++ run of order 1, 2 or 3.

    Order 1 is DDIM without clipping. 10 to 25 steps are enough for good images.
    """

    scheduler_class = DPMSolverMultistepScheduler

    def __init__(
        self, num_inference_steps: int = 20, order: int = 2, timestep_spacing: str = "trailing"
    ) -> None:
        if order not in (1, 2, 3):
            raise BadConfig(f"sampler.order must be 1, 2 or 3, got {order}")
        super().__init__(
            num_inference_steps,
            timestep_spacing,
            algorithm_type="dpmsolver++",
            solver_order=order,
            final_sigmas_type="zero",
            steps_offset=0,
        )

    def scheduler(self, scheduler_config: Mapping[str, object]) -> SchedulerMixin:
        """Return diffusers' scheduler with its grid of timesteps set.

        Raises BadConfig for a grid that stays at a noise level: a step divides by its difference.
        """
        # in this scheduler `variance_type` means learned variances
        scheduler = super().scheduler(
            {key: value for key, value in scheduler_config.items() if key != "variance_type"}
        )
        if not bool((scheduler.sigmas.diff() < 0).all()):
            raise BadConfig(
                f"sampler.num_inference_steps={self.num_inference_steps} with "
                f"timestep_spacing={self.settings['timestep_spacing']} repeats noise levels, which "
                "DPM-Solver cannot step between\ntype: sampler.num_inference_steps=20"
            )
        return scheduler
