"""Plain (continued) training: the weighted denoising loss over all timesteps."""

from collections.abc import Callable

import torch
from torch import Tensor

from deme.models.unconditional import UnconditionalModel
from deme.seeds import Rows
from deme.timesteps import TimestepSampler
from deme.weighting import Weighting, prediction_weight


class Finetune:
    """E w(t) ||target - network(x_t, t)||^2, mean over pixels, then weighted per sample, then mean over the batch."""

    forwards_per_step = 3

    def __init__(self, weighting: Weighting, timesteps: TimestepSampler) -> None:
        self.weighting = weighting
        self.timesteps = timesteps

    def prepare(self, pretrained: Callable[[], UnconditionalModel], device: str) -> None:
        """Need nothing but the model itself."""

    def draw(self, model: UnconditionalModel, x0: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_t, t, the prediction target and the weight per sample [B]."""
        t = rows.timesteps(self.timesteps)
        eps = rows.normal(x0.shape[1:]).to(x0)
        weight = prediction_weight(self.weighting, model.schedule.snr, model.prediction_type)[t].to(x0)
        t = t.to(x0.device)
        return model.schedule.add_noise(x0, eps, t), t, model.schedule.target(model.prediction_type, x0, eps, t), weight

    def losses(self, model: UnconditionalModel, x0: Tensor, rows: Rows) -> dict[str, Tensor]:
        """Return the term `denoising`."""
        x_t, t, target, weight = self.draw(model, x0, rows)
        return {"denoising": weighted_error(model(x_t, t), target, weight)}

    def finish(self) -> None:
        """Check nothing."""


def weighted_error(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over the batch of weight [B] times the mean squared error of each sample."""
    error = torch.nn.functional.mse_loss(prediction, target, reduction="none")
    return (weight * error.flatten(1).mean(1)).mean()
