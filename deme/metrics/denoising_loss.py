"""The denoising loss on fixed (x0, t, eps) triples of held-out images, the same for every model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deme.data import EncodedDataset, Images, eval_sample
from deme.diffusion import (
    Condition,
    Network,
    NoiseSchedule,
    TimestepRange,
    bind_condition,
    generator,
    moved,
    rows_of,
)
from deme.system import progress


@dataclass(frozen=True)
class Triples:
    """Images, K timesteps per image in each of R ranges, one noise per triple, and the condition.

    `x0` [M, C, H, W], `t` [R, K, M]; `rows`: which of the images, None for all. The noise follows
    from `noise_state` and is generated when it is needed, for one draw of one range at a time.
    """

    x0: Tensor
    t: Tensor
    noise_state: Tensor
    rows: list[int] | None = None
    condition: Condition = field(default_factory=dict)

    def of(self, rows: list[int]) -> "Triples":
        """Return the triples of some of the images."""
        return replace(self, rows=rows)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Condition]]:
        """Yield range index, images, timesteps [M], noise and condition, draw by draw."""
        draw = torch.Generator()
        draw.set_state(self.noise_state)
        rows = slice(None) if self.rows is None else self.rows
        condition = rows_of(self.condition, rows)
        for index, of_range in enumerate(self.t):
            for t in of_range:
                eps = torch.randn(self.x0.shape, generator=draw)
                yield index, self.x0[rows], t[rows], eps[rows], condition


def fixed_triples(
    images: Images | EncodedDataset, ranges: Sequence[TimestepRange], draws: int, seed: int
) -> Triples:
    """Draw `draws` timesteps per image and range; they depend on the seed and the shapes alone."""
    x0, condition = eval_sample(images, list(range(len(images))))
    draw = generator("triples", seed)
    t = torch.stack(
        [torch.randint(r.low, r.high, (draws, len(x0)), generator=draw) for r in ranges]
    )
    return Triples(x0, t, draw.get_state(), condition=condition)


@torch.no_grad()  # not inference_mode, which fully_shard cannot leave again
def denoising_loss(
    network: Network,
    schedule: NoiseSchedule,
    prediction_type: str,
    triples: Triples,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
) -> Tensor:
    """Return the squared error of the network's prediction per range and image, float64 [R, M].

    It is the mean over pixels and draws, of what the network predicts (eps, x0 or v).
    """
    losses: list[list[Tensor]] = [[] for _ in triples.t]
    total = triples.t[..., triples.rows or slice(None)].numel()
    with progress("held-out loss", total, "images") as bar:
        for index, x_t, t, target, condition in noised(
            triples, schedule, prediction_type, device, batch_size
        ):
            error = (bind_condition(network, condition)(x_t, t) - target).square()
            losses[index].append(error.flatten(1).mean(1).double())
            bar.advance(len(x_t))
    draws = triples.t.shape[1]
    return torch.stack([torch.cat(errors).reshape(draws, -1).mean(0).cpu() for errors in losses])


def noised(
    triples: Triples,
    schedule: NoiseSchedule,
    prediction_type: str,
    device: torch.device | str,
    batch_size: int,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Condition]]:
    """Yield range index, x_t, t, the prediction's target and the condition, batch by batch."""
    for index, *whole, condition in triples:
        for start in range(0, len(whole[0]), batch_size):
            rows = slice(start, start + batch_size)
            x0, t, eps = (part[rows].to(device) for part in whole)
            x_t, target = (
                schedule.add_noise(x0, eps, t),
                schedule.target(prediction_type, x0, eps, t),
            )
            yield index, x_t, t, target, moved(rows_of(condition, rows), device)
