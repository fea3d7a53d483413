"""The squared error of a merged model's predictions on fixed noise, with its gradient."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from deme.diffusion import Condition, TimestepRange, bind_condition
from deme.evaluation.merged_model import LiveModel
from deme.metrics import Triples, noised

# Index of the timestep range, x_t, t, the target of the network, its condition.
Batch = tuple[int, Tensor, Tensor, Tensor, Condition]


class DenoisingError:
    """Squared error on fixed (x0, t, eps), with a gradient.

    The target is that of the denoising loss, or the prediction of the expert of each range if
    `distillation` is true. `shares` [R] weigh the ranges; those of share 0 cost nothing.
    """

    def __init__(
        self,
        live: LiveModel,
        triples: Triples,
        ranges: Sequence[TimestepRange],
        shares: Tensor,
        device: str,
        batch_size: int,
        distillation: bool,
    ) -> None:
        self.live, self.triples, self.ranges, self.shares = live, triples, ranges, shares
        self.device, self.batch_size = device, batch_size
        self.num_forward_passes_per_image = int((shares > 0).sum())
        self.expert_predictions: list[Tensor] = []
        if distillation:
            self.expert_predictions = self._predict_with_experts()

    def divide_by_base(self) -> None:
        """Divide the error of each range by that of the base, and count all ranges equally.

        The value is then 1 at the base and, if the target is the experts' predictions, 0 where the
        model equals them. A range in which the base has no error is left out.
        """
        self.live.set_base()
        errors = self._errors_by_range(1.0)
        counted = errors > 0
        self.shares = torch.where(counted, 1 / errors, 0.0) / max(1, int(counted.sum()))

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images are used, each at one timestep of every range."""
        return max(1, round(fraction * len(self.triples.x0)))

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the mean squared error, in which ranges count by `shares`."""
        self.live.set_weights(weights)
        return float((self.shares * self._errors_by_range(fraction)).sum())

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the error on all images and its gradient [blocks x N].

        One backward pass through the model, then inner products with the task vectors.
        """
        self.live.check_linear()
        self.live.set_weights(weights)
        count = self.num_images()
        self.live.differentiate(True)
        total = 0.0
        for batch in self._batches(1.0):
            loss = float(self.shares[batch[0]]) * self._errors(batch).sum() / count
            loss.backward()
            total += float(loss.detach())
        gradient = self.live.gradient()
        self.live.differentiate(False)
        return total, gradient

    @torch.inference_mode()
    def _errors_by_range(self, fraction: float) -> Tensor:
        """Return the mean squared error of the model in each range, float64, [R]."""
        total = torch.zeros(len(self.ranges), dtype=torch.float64)
        for batch in self._batches(fraction):
            total[batch[0]] += float(self._errors(batch).double().sum())
        return total / self.num_images(fraction)

    def _errors(self, batch: Batch) -> Tensor:
        """Return the squared error of every image of a batch, mean over pixels, [B]."""
        _, x_t, t, target, condition = batch
        error = bind_condition(self.live.model, condition)(x_t, t) - target
        return error.square().flatten(1).mean(1)

    def _batches(self, fraction: float) -> Iterator[Batch]:
        schedule, kind = self.live.model.schedule, self.live.model.prediction_type
        triples = self.triples.of(list(range(self.num_images(fraction))))
        seen = [0] * len(self.ranges)
        for index, x_t, t, target, condition in noised(
            triples, schedule, kind, self.device, self.batch_size
        ):
            if self.shares[index] == 0:
                continue
            if self.expert_predictions:
                rows = slice(seen[index], seen[index] + len(t))
                target = self.expert_predictions[index][rows].to(self.device)
            seen[index] += len(t)
            yield index, x_t, t, target, condition

    @torch.inference_mode()
    def _predict_with_experts(self) -> list[Tensor]:
        """Return each expert's predictions in its range, a tensor [images, C, H, W] per range."""
        found = []
        for index in range(len(self.ranges)):
            self.live.set_expert(index)
            predictions = [
                bind_condition(self.live.model, condition)(x_t, t).cpu()
                for i, x_t, t, _, condition in self._batches(1.0)
                if i == index
            ]
            found.append(torch.cat(predictions))
        return found
