"""Gradient affinity: the cosines between loss gradients at different timesteps.

Go et al. 2023, section 3 (docs/method.md#gradient-affinity).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images, eval_sample
from deme.diffusion import (
    Condition,
    TimestepRange,
    bind_condition,
    generator,
    joined,
    moved,
    rows_of,
    uniform,
)
from deme.methods.finetune import weighted_errors
from deme.models.denoiser import DenoisingModel

SKETCH_SIZE = 1 << 16
CHUNK_ELEMENTS = 1 << 22  # of a gradient, sketched at once
MIN_RELIABILITY = 0.1
DRAWN_AT_ONCE = 256  # samples whose random numbers are drawn together
BINS_AT_ONCE = 16  # whose sketches are in memory together

Draw = tuple[Tensor, Tensor, Tensor, Condition]  # x_0, noise, t and the condition of samples


@dataclass(frozen=True)
class Affinity:
    """Cosines [m, m] between the gradients of m bins, and the reliability of each, [m] in -1..1.

    The reliability of a gradient is the cosine between two estimates of it.
    """

    cosines: Tensor
    reliability: Tensor


@dataclass(frozen=True)
class Products:
    """Inner products of estimated gradients of m bins, each in two halves of s groups; float64.

    `across` [m, s, m, s]: of group a of the first half of bin i and group b of the second half of
    bin j. `within` [2, m]: of the sum over each half with itself.
    """

    across: Tensor
    within: Tensor

    @property
    def inner(self) -> Tensor:
        """Products of the two halves [m, m], whose expectation is free of noise."""
        return self.across.sum((1, 3))

    @property
    def reliability(self) -> Tensor:
        """The cosine between the two halves of each bin, [m]."""
        plain = self.within.prod(0).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        return self.inner.diagonal() / plain

    @property
    def uncorrected(self) -> Tensor:
        """Cosines between halves [m, m], which noise pulls to 0."""
        lengths = self.within.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        cosines = self.inner / (lengths[0][:, None] * lengths[1])
        return (cosines + cosines.T) / 2


def gradient_affinity(
    model: DenoisingModel,
    images: Images | EncodedDataset,
    num_bins: int,
    num_images: int,
    seed: int,
    batch_size: int = DRAWN_AT_ONCE,
) -> Affinity:
    """Measure the cosines between the loss gradients of equal bins of [0, T), float64.

    At a trained model a gradient is mostly noise, which biases the cosine of two estimates towards
    0. So each gradient is estimated twice, on halves of `num_images` samples, and inner products
    are taken across halves only. All bins use the same images, with noise of their own in
    antithetic pairs. A bin less reliable than MIN_RELIABILITY has affinity 0 with the others.
    Gradients of more than SKETCH_SIZE elements are count-sketched.
    """
    bins = uniform(num_bins, model.schedule.num_timesteps)
    sketches = [
        gradient_sketches(model, images, item, num_images, seed, 1, batch_size) for item in bins
    ]
    return affinity_of(inner_products(lambda i: sketches[i], num_bins))


def affinity_of(products: Products) -> Affinity:
    """Return cosines corrected for the noise of both gradients.

    A bin less reliable than MIN_RELIABILITY has affinity 0 with the others.
    """
    reliability = products.reliability
    cosines = _corrected(products.inner, reliability >= MIN_RELIABILITY).clamp(-1, 1)
    return Affinity(cosines.fill_diagonal_(1), reliability)


def _corrected(inner: Tensor, known: Tensor) -> Tensor:
    """Return inner / the lengths without noise, 0 for bins whose length is not known."""
    length = torch.where(known, inner.diagonal(), torch.inf).sqrt()
    return (inner + inner.T) / 2 / (length[:, None] * length)


def standard_errors(products: Products) -> Tensor:
    """Return the standard errors of the corrected cosines [m, m], by the jackknife over groups.

    Each half is a sample of s groups, of which one at a time is left out (Efron and Stein 1981);
    there are 2 (s - 1) degrees of freedom. NaN where a length is not known without a group. Raises
    ValueError for fewer than two groups in a half.
    """
    across, s = products.across, products.across.shape[1]
    if s < 2:
        raise ValueError(f"standard errors need at least two groups in a half, got {s}")
    inner = products.inner
    variance = torch.zeros_like(inner)
    for left_out in (across.sum(3).movedim(1, 0), across.sum(1).movedim(2, 0)):  # [s, m, m]
        remaining = [inner - group for group in left_out]
        found = torch.stack([_corrected(each, each.diagonal() > 0) for each in remaining])
        variance += (s - 1) / s * (found - found.mean(0)).square().sum(0)
        known = torch.stack([each.diagonal() > 0 for each in remaining]).all(0)
        variance[~known] = variance[:, ~known] = torch.nan
    return variance.sqrt()


def inner_products(load: Callable[[int], Tensor], num_bins: int) -> Products:
    """Return the products of sketches [2, s, k], which `load` reads by bin, a few bins at a time.

    Memory does not grow with the number of bins.
    """
    blocks = [
        range(first, min(first + BINS_AT_ONCE, num_bins))
        for first in range(0, num_bins, BINS_AT_ONCE)
    ]

    def half_of(which: int, block: range) -> Tensor:
        return torch.stack([load(i)[which] for i in block])  # [bins, s, k]

    within = torch.stack(
        [
            torch.cat([half_of(h, block).sum(1).square().sum(1) for block in blocks])
            for h in range(2)
        ]
    )
    rows = []
    for one in blocks:
        left = half_of(0, one)
        columns = []
        for other in blocks:
            right = half_of(1, other)
            columns.append(left.flatten(0, 1) @ right.flatten(0, 1).T)
        rows.append(torch.cat(columns, 1))
    num_groups = len(load(0)[0])
    return Products(torch.cat(rows).reshape([num_bins, num_groups] * 2), within)


def gradient_sketches(
    model: DenoisingModel,
    images: Images | EncodedDataset,
    item: TimestepRange,
    num_images: int,
    seed: int,
    num_groups: int = 1,
    batch_size: int = DRAWN_AT_ONCE,
) -> Tensor:
    """Return the loss gradient in a range, for each group of both halves; sketches [2, s, k].

    A half has `num_images` / 2 samples in `num_groups` groups, whose sum is the half's gradient of
    the summed loss. `batch_size` samples are computed at once.
    """
    count = num_images // 2
    size = min(DRAWN_AT_ONCE, count // num_groups)
    ends = [-(-count // size) * group // num_groups for group in range(num_groups + 1)]
    sketches = []
    for half in range(2):
        draws = _draws(images, item, count, (seed, half), size)
        for start, end in pairwise(ends):
            total = [torch.zeros_like(parameter) for parameter in model.parameters()]
            for draw in islice(draws, end - start):
                _add_gradient(total, model, draw, batch_size)
            sketches.append(_sketch(total))
    return torch.stack(sketches).reshape(2, num_groups, -1)


def num_samples(num_images: int, num_groups: int) -> int:
    """Return how many samples each half of `num_images` has: they come in pairs."""
    count = num_images // 2
    size = min(DRAWN_AT_ONCE, count // num_groups)
    return sum(2 * -(-min(size, count - first) // 2) for first in range(0, count, size))


def _draws(
    images: Images | EncodedDataset,
    item: TimestepRange,
    count: int,
    keys: tuple[int, int],
    size: int,
) -> Iterator[Draw]:
    """Yield `count` samples, `size` at a time: images of the keys, noise of the range, too."""
    draw, noise = generator("affinity", *keys), generator("affinity noise", *keys, item.low)
    for first in range(0, count, size):
        pairs = -(-min(size, count - first) // 2)
        x0, condition = eval_sample(
            images, torch.randint(len(images), (pairs,), generator=draw).tolist()
        )
        eps = torch.randn(x0.shape, generator=noise).to(x0)
        t = torch.randint(item.low, item.high, (pairs,), generator=noise)
        yield (
            torch.cat([x0, x0]),
            torch.cat([eps, -eps]),
            torch.cat([t, t]),
            joined([condition, condition]),
        )


def _add_gradient(
    total: Sequence[Tensor], model: DenoisingModel, draw: Draw, batch_size: int
) -> None:
    """Add the gradient of the summed loss of samples to `total`, a tensor per parameter."""
    parameters = list(model.parameters())
    device = parameters[0].device
    for first in range(0, len(draw[0]), batch_size):
        rows = slice(first, first + batch_size)
        x0, eps, t = (part[rows].to(device) for part in draw[:3])
        network = bind_condition(model, moved(rows_of(draw[3], rows), device))
        target = model.schedule.target(model.prediction_type, x0, eps, t)
        prediction = network(model.schedule.add_noise(x0, eps, t), t)
        error = weighted_errors(prediction, target, torch.ones_like(t).to(x0)).sum()
        gradients = torch.autograd.grad(error, parameters, materialize_grads=True)
        for sums, gradient in zip(total, gradients, strict=True):
            sums += gradient


def _sketch(gradient: Sequence[Tensor]) -> Tensor:
    """Return the gradient, of a tensor per parameter, or if it is long its count sketch.

    A sketch keeps inner products up to 1 / sqrt(SKETCH_SIZE) of the lengths' product (Charikar et
    al. 2002; the standard deviation for vectors of which no element stands out).
    """
    if sum(part.numel() for part in gradient) <= SKETCH_SIZE:
        return torch.cat([part.flatten() for part in gradient]).double().cpu()
    draw = generator("count sketch")
    out = torch.zeros(SKETCH_SIZE, dtype=torch.float64)
    for chunk in _chunks(gradient):
        place = torch.randint(SKETCH_SIZE, (len(chunk),), generator=draw)
        sign = torch.randint(2, (len(chunk),), generator=draw) * 2 - 1
        out.index_add_(0, place, chunk.double().cpu() * sign)
    return out


def _chunks(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield all elements, CHUNK_ELEMENTS at a time, without a copy of them all."""
    pending: list[Tensor] = []
    size = 0
    for part in parts:
        for piece in _cut(part.flatten(), CHUNK_ELEMENTS - size):
            pending.append(piece)
            size += len(piece)
            if size == CHUNK_ELEMENTS:
                yield torch.cat(pending)
                pending, size = [], 0
    if pending:
        yield torch.cat(pending)


def _cut(flat: Tensor, first: int) -> Iterator[Tensor]:
    """Yield `first` elements of a vector, then CHUNK_ELEMENTS at a time."""
    yield flat[:first]
    if len(flat) > first:
        yield from flat[first:].split(CHUNK_ELEMENTS)
