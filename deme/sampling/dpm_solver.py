"""DPM-Solver++ (Lu et al. 2022), multistep, through diffusers' scheduler."""

from collections.abc import Mapping

from diffusers import DPMSolverMultistepScheduler

from deme.sampling.sampler import check_steps, make_scheduler
from deme.system import BadConfig


class DPMSolver:
    """Settings of a deterministic DPM-Solver++ run of order 1, 2 or 3.

    Order 1 is DDIM without clipping. 10 to 25 steps are enough for good images.
    """

    def __init__(
        self, num_inference_steps: int = 20, order: int = 2, timestep_spacing: str = "trailing"
    ) -> None:
        check_steps(num_inference_steps, timestep_spacing)
        if order not in (1, 2, 3):
            raise BadConfig(f"sampler.order must be 1, 2 or 3, got {order}")
        self.num_inference_steps = num_inference_steps
        self.step_options: dict[str, float] = {}
        self.order, self.timestep_spacing = order, timestep_spacing

    def scheduler(self, scheduler_config: Mapping[str, object]) -> DPMSolverMultistepScheduler:
        """Return diffusers' scheduler with its grid of timesteps set."""
        # in this scheduler `variance_type` means learned variances
        given = {key: value for key, value in scheduler_config.items() if key != "variance_type"}
        return make_scheduler(
            DPMSolverMultistepScheduler,
            given,
            self.num_inference_steps,
            algorithm_type="dpmsolver++",
            solver_order=self.order,
            timestep_spacing=self.timestep_spacing,
            final_sigmas_type="zero",
            steps_offset=0,
        )
