"""DPM-Solver++ (Lu et al. 2022), multistep, through diffusers' scheduler."""

from collections.abc import Mapping

from diffusers import DPMSolverMultistepScheduler, SchedulerMixin

from deme.sampling.sampler import Sampler
from deme.system import BadConfig


class DPMSolver(Sampler):
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
        """Return diffusers' scheduler with its grid of timesteps set."""
        # in this scheduler `variance_type` means learned variances
        return super().scheduler(
            {key: value for key, value in scheduler_config.items() if key != "variance_type"}
        )
