"""DDIM (Song et al. 2021), the sampler of the paper's tables, through diffusers' scheduler."""

from collections.abc import Mapping

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from deme.sampling.sampler import BetaSampler
from deme.system import BadConfig

SKIPS = ("uniform", "quadratic")


class DDIM(BetaSampler):
    """Settings of a DDIM run; noise schedule and prediction type are those of the model.

    `eta`: 0 is deterministic, 1 adds as much noise as DDPM (eq. 16). `skip_type`: uniform, with
    diffusers' `timestep_spacing`, or quadratic, the authors' for CIFAR-10: more steps at low noise,
    none above 0.8 T. `clip_sample`: clamp the predicted x_0 to [-1, 1], as diffusers does; the
    authors do not.
    """

    scheduler_class = DDIMScheduler

    def __init__(
        self,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        skip_type: str = "uniform",
        clip_sample: bool = True,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        set_alpha_to_one: bool = True,
    ) -> None:
        if not 0 <= eta <= 1:
            raise BadConfig(f"sampler.eta must lie between 0 and 1, got {eta}")
        if skip_type not in SKIPS:
            raise BadConfig(
                f"sampler.skip_type must be one of {', '.join(SKIPS)}, got {skip_type!r}"
            )
        super().__init__(
            num_inference_steps,
            timestep_spacing,
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
        )
        self.step_options = {"eta": eta} if eta else {}
        self.skip_type = skip_type

    def scheduler(self, scheduler_config: Mapping[str, object]) -> DDIMScheduler:
        """Return diffusers' scheduler with its grid of timesteps set."""
        scheduler = super().scheduler(scheduler_config)
        grid, limit = scheduler.timesteps, scheduler.config["num_train_timesteps"]
        if self.skip_type == "quadratic":
            grid = quadratic_grid(self.num_inference_steps, limit)
            self.check_start(int(grid[0]), limit)
        step = limit // self.num_inference_steps
        if bool((grid[:-1] - grid[1:] == step).all()) and int(grid[-1]) < step:
            return scheduler
        scheduler = GridDDIMScheduler.from_config(scheduler.config)
        scheduler.timesteps, scheduler.num_inference_steps = grid, len(grid)
        return scheduler


def quadratic_grid(num_inference_steps: int, num_timesteps: int) -> Tensor:
    """Return floor(u^2), u evenly spaced from 0 to sqrt(0.8 T), in descending order.

    Repeated timesteps, which would be steps that change nothing, are left out.
    """
    ends = torch.linspace(0, (0.8 * num_timesteps) ** 0.5, num_inference_steps, dtype=torch.float64)
    return ends.square().long().unique().flip(0)


class GridDDIMScheduler(DDIMScheduler):
    """DDIM from each timestep of a grid to the next one of the grid.

    diffusers steps from t to t - T // S whatever the grid is.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **_: object,
    ) -> DDIMSchedulerOutput:
        """Return the sample at the grid's next timestep (eqs. 12 and 16).

        eps is not recomputed from a clipped or thresholded x_0.
        """
        later = self.timesteps[self.timesteps < timestep]
        alpha_bar = self.alphas_cumprod[timestep]
        alpha_bar_next = self.alphas_cumprod[later[0]] if len(later) else self.final_alpha_cumprod
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        kind = self.config["prediction_type"]
        if kind == "epsilon":
            x0, eps = (sample - sigma * model_output) / alpha, model_output
        elif kind == "sample":
            x0, eps = model_output, (sample - alpha * model_output) / sigma
        else:
            x0, eps = alpha * sample - sigma * model_output, alpha * model_output + sigma * sample
        if self.config["thresholding"]:
            x0 = self._threshold_sample(x0)
        elif self.config["clip_sample"]:
            x0 = x0.clamp(-self.config["clip_sample_range"], self.config["clip_sample_range"])
        noise = (
            eta * ((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)).sqrt()
        )
        following = alpha_bar_next.sqrt() * x0 + (1 - alpha_bar_next - noise**2).sqrt() * eps
        if eta > 0:
            following = following + noise * randn_tensor(
                sample.shape, generator, sample.device, sample.dtype
            )
        return DDIMSchedulerOutput(prev_sample=following, pred_original_sample=x0)
