"""Directions in the space of weights, losses along them, and the curvature of the loss."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images
from deme.diffusion import TimestepRange, bind_condition, generator
from deme.metrics import fixed_triples, noised
from deme.models.denoiser import DenoisingModel

Direction = Mapping[str, Tensor]  # a tensor for each parameter of the model, float32

MOVED = 1e-3  # how far the weights move for a difference of gradients, of their length


def filter_normalised(model: DenoisingModel, *keys: int | str) -> dict[str, Tensor]:
    """Return a random direction, each filter as long as the weights' (Li et al. 2018, section 4).

    A filter is what gives one output channel. Biases and scales (tensors of one dimension) stay.
    """
    draw = generator("direction", *keys)
    found = {}
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=draw).to(weight)
        if weight.ndim < 2:
            found[name] = torch.zeros_like(weight)
            continue
        shape = [len(weight), *[1] * (weight.ndim - 1)]
        lengths = [each.detach().flatten(1).norm(dim=1).view(shape) for each in (weight, noise)]
        found[name] = noise * lengths[0] / lengths[1].clamp_min(1e-12)
    return found


def inner(one: Direction, other: Direction) -> float:
    """Return the inner product of two directions, summed in float64."""
    return sum(float((one[name].double() * other[name].double()).sum()) for name in one)


def scaled(direction: Direction, factor: float) -> dict[str, Tensor]:
    """Return a direction times a number."""
    return {name: value * factor for name, value in direction.items()}


class Landscape:
    """The loss of a model in ranges of timesteps, at weights moved from where they are.

    Every range has fixed (x0, t, eps), `draws` for each image. The loss of several ranges is their
    mean, weighted by their numbers of timesteps.
    """

    def __init__(
        self,
        model: DenoisingModel,
        images: Images | EncodedDataset,
        ranges: Sequence[TimestepRange],
        draws: int,
        seed: int,
        device: str,
        batch_size: int,
    ) -> None:
        self.model, self.device, self.batch_size = model, device, batch_size
        self.triples = [fixed_triples(images, [item], draws, seed) for item in ranges]
        self.sizes = [len(item) for item in ranges]
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def move(self, *steps: tuple[float, Direction]) -> None:
        """Set the weights to those of the base plus number times direction, for each step."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.weights[name])
            for factor, direction in steps:
                parameter.add_(direction[name], alpha=factor)

    @torch.inference_mode()
    def losses(self, ranges: Sequence[int]) -> list[float]:
        """Return the loss in each of these ranges at the present weights."""
        sums = dict.fromkeys(ranges, 0.0)
        for index, error in self._errors(ranges):
            sums[index] += float(error.double().sum())
        return [sums[index] / self._count for index in ranges]

    def mean(self, ranges: Sequence[int], losses: Sequence[float]) -> float:
        """Return the loss over several ranges from those in each."""
        total = sum(self.sizes[index] for index in ranges)
        parts = zip(ranges, losses, strict=True)
        return sum(self.sizes[index] * loss for index, loss in parts) / total

    def gradient(self, ranges: Sequence[int]) -> dict[str, Tensor]:
        """Return the gradient of the loss over these ranges at the present weights."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        total = [torch.zeros_like(parameter) for parameter in parameters]
        size = sum(self.sizes[index] for index in ranges)
        for index, error in self._errors(ranges):
            loss = error.sum() * (self.sizes[index] / size / self._count)
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for sums, gradient in zip(total, gradients, strict=True):
                sums += gradient
        return dict(zip(names, total, strict=True))

    def hessian_times(self, ranges: Sequence[int], direction: Direction) -> dict[str, Tensor]:
        """Return the Hessian at the base times a direction, by a central difference of gradients.

        The weights move by MOVED of their length, so that its error is of second order in that.
        """
        length = inner(direction, direction) ** 0.5
        factor = MOVED * inner(self.weights, self.weights) ** 0.5 / max(length, 1e-30)
        self.move((factor, direction))
        ahead = self.gradient(ranges)
        self.move((-factor, direction))
        behind = self.gradient(ranges)
        self.move()
        return {name: (ahead[name] - behind[name]) / (2 * factor) for name in ahead}

    @property
    def _count(self) -> int:
        return self.triples[0].t.numel()

    def _errors(self, ranges: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of a range and squared errors of images [B], a mean over pixels."""
        schedule, kind = self.model.schedule, self.model.prediction_type
        for index in ranges:
            for _, x_t, t, target, condition in noised(
                self.triples[index], schedule, kind, self.device, self.batch_size
            ):
                error = bind_condition(self.model, condition)(x_t, t) - target
                yield index, error.square().flatten(1).mean(1)


def sharpness(
    landscape: Landscape, ranges: Sequence[int], num_iterations: int, *keys: int | str
) -> tuple[float, float]:
    """Return the Hessian's eigenvalue of the largest magnitude, by the power method.

    The second number is by how much the last iteration changed it: how far it has converged.
    """
    draw = generator("power method", *keys)
    vector = {
        name: torch.randn(weight.shape, generator=draw).to(weight)
        for name, weight in landscape.weights.items()
    }
    values = [0.0]
    for _ in range(num_iterations):
        vector = scaled(vector, 1 / max(inner(vector, vector) ** 0.5, 1e-30))
        product = landscape.hessian_times(ranges, vector)
        values.append(inner(vector, product))  # of a vector of length 1
        vector = product
    return values[-1], abs(values[-1] - values[-2])
