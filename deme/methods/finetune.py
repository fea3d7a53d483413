"""Plain (continued) training: the weighted denoising loss over all timesteps."""

import torch
from torch import Tensor

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    ShardedRandom,
    TimestepSampler,
    bind_condition,
)
from deme.methods import Method
from deme.models.denoiser import DenoisingModel


class Finetune(Method):
    """E w(t) ||target - network(x_t, t)||^2, a mean over pixels and over the batch.

    `weights` [T] are those of the network's own squared error
    (deme.diffusion.weighting.timestep_weights).
    """

    def __init__(self, weights: Tensor, timesteps: TimestepSampler) -> None:
        self.weights: Tensor = weights
        self.timesteps: TimestepSampler = timesteps

    def draw(
        self, model: DenoisingModel, x0: Tensor, draws: ShardedRandom, t: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_t, t, the prediction target and the weight per sample [B].

        `t` are timesteps [B] on the CPU; None draws them.
        """
        t = draws.timesteps(self.timesteps) if t is None else t
        eps = draws.normal(x0.shape[1:]).to(x0)
        weight = self.weights[t].to(x0)
        t = t.to(x0.device)
        x_t = model.schedule.add_noise(x0, eps, t)
        return x_t, t, model.schedule.target(model.prediction_type, x0, eps, t), weight

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return the term `denoising`."""
        x_t, t, target, weight = self.draw(model, x0, draws)
        prediction = bind_condition(model, condition)(x_t, t)
        return {"denoising": weighted_errors(prediction, target, weight).mean()}


def weighted_errors(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return weight [B] times the mean squared error of each sample, [B]."""
    error = torch.nn.functional.mse_loss(prediction, target, reduction="none")
    return weight * error.flatten(1).mean(1)
