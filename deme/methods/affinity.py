"""Gradient affinity: the cosines between loss gradients at different timesteps.

Go et al. 2023, section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images, eval_sample
from deme.diffusion import TimestepRange, bind_condition, generator, joined, moved, uniform
from deme.methods.finetune import weighted_errors
from deme.models.denoiser import DenoisingModel

SKETCH_SIZE = 1 << 16
CHUNK_ELEMENTS = 1 << 22  # of a gradient, sketched at once
MIN_RELIABILITY = 0.1


@dataclass(frozen=True)
class Affinity:
    """Cosines [m, m] between the gradients of m bins, and the reliability of each, [m] in -1..1.

    The reliability of a gradient is the cosine between two estimates of it.
    """

    cosines: Tensor
    reliability: Tensor


def gradient_affinity(
    model: DenoisingModel,
    images: Images | EncodedDataset,
    num_bins: int,
    num_images: int,
    seed: int,
    batch_size: int = 256,
) -> Affinity:
    """Measure the cosines between the loss gradients of equal bins of [0, T), float64.

    At a trained model a gradient is mostly noise, which biases the cosine of two estimates towards
    0. So each gradient is estimated twice, on halves of `num_images` samples, and inner products
    are taken across halves only. All bins use the same images, with noise of their own in
    antithetic pairs. A bin less reliable than MIN_RELIABILITY has affinity 0 with the others.
    Gradients of more than SKETCH_SIZE elements are count-sketched.
    """
    bins = uniform(num_bins, model.schedule.num_timesteps)
    first, second = (
        torch.stack(
            [
                _gradient(model, images, item, num_images // 2, (seed, half), batch_size)
                for item in bins
            ]
        )
        for half in range(2)
    )
    inner = first @ second.T
    plain = (first.norm(dim=1) * second.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
    reliability = inner.diagonal() / plain
    known = reliability >= MIN_RELIABILITY
    length = torch.where(known, inner.diagonal(), torch.inf).sqrt()
    cosines = ((inner + inner.T) / 2 / (length[:, None] * length)).clamp(-1, 1)
    return Affinity(cosines.fill_diagonal_(1), reliability)


def _gradient(
    model: DenoisingModel,
    images: Images | EncodedDataset,
    item: TimestepRange,
    count: int,
    keys: tuple[int, int],
    batch_size: int,
) -> Tensor:
    draw, noise = generator("affinity", *keys), generator("affinity noise", *keys, item.low)
    parameters = list(model.parameters())
    device = parameters[0].device
    total = [torch.zeros_like(p) for p in parameters]
    for first in range(0, count, batch_size):
        pairs = -(-min(batch_size, count - first) // 2)
        x0, condition = eval_sample(
            images, torch.randint(len(images), (pairs,), generator=draw).tolist()
        )
        x0 = x0.to(device)
        network = bind_condition(model, moved(joined([condition, condition]), device))
        eps = torch.randn(x0.shape, generator=noise).to(x0)
        t = torch.randint(item.low, item.high, (pairs,), generator=noise).to(device)
        x0, eps, t = torch.cat([x0, x0]), torch.cat([eps, -eps]), torch.cat([t, t])
        target = model.schedule.target(model.prediction_type, x0, eps, t)
        prediction = network(model.schedule.add_noise(x0, eps, t), t)
        error = weighted_errors(prediction, target, torch.ones_like(t).to(x0)).sum()
        gradients = torch.autograd.grad(error, parameters, materialize_grads=True)
        for sums, gradient in zip(total, gradients, strict=True):
            sums += gradient
    return _sketch(torch.cat([part.flatten() for part in total]).double().cpu())


def _sketch(gradient: Tensor) -> Tensor:
    """Return the gradient, or if it is long its count sketch.

    A sketch keeps inner products up to 1 / sqrt(SKETCH_SIZE).
    """
    if len(gradient) <= SKETCH_SIZE:
        return gradient
    draw = generator("count sketch")
    out = torch.zeros(SKETCH_SIZE, dtype=torch.float64)
    for chunk in gradient.split(CHUNK_ELEMENTS):
        place = torch.randint(SKETCH_SIZE, (len(chunk),), generator=draw)
        sign = torch.randint(2, (len(chunk),), generator=draw) * 2 - 1
        out.index_add_(0, place, chunk * sign)
    return out
