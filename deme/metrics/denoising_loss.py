"""The denoising loss on fixed (x0, t, eps) triples of held-out images: the same triples for every model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deme.data import Images, every, to_float
from deme.ranges import TimestepRange
from deme.schedule import NoiseSchedule
from deme.seeds import generator

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Triples:
    """Images [M, C, H, W], timesteps [R, K, M] (K draws in each of R ranges per image) and one noise per triple.

    The noise is drawn when it is needed, for one draw of one range at a time, always the same.
    """

    x0: Tensor
    t: Tensor
    noise_state: Tensor
    rows: list[int] | None = None  # of the images

    def of(self, rows: list[int]) -> "Triples":
        """Return the triples of some of the images."""
        return Triples(self.x0, self.t, self.noise_state, rows)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield range, images, timesteps [M] and noise, range by range and draw by draw."""
        draw = torch.Generator()
        draw.set_state(self.noise_state)
        rows = slice(None) if self.rows is None else self.rows
        for index, of_range in enumerate(self.t):
            for t in of_range:
                eps = torch.randn(self.x0.shape, generator=draw)
                yield index, self.x0[rows], t[rows], eps[rows]


def fixed_triples(images: Images, ranges: Sequence[TimestepRange], draws: int, seed: int) -> Triples:
    """Draw `draws` timesteps per image and range; they depend on the seed and the shapes alone."""
    x0 = to_float(every(images))
    draw = generator("triples", seed)
    t = torch.stack([torch.randint(r.low, r.high, (draws, len(x0)), generator=draw) for r in ranges])
    return Triples(x0, t, draw.get_state())


@torch.inference_mode()
def denoising_loss(
    network: Network,
    schedule: NoiseSchedule,
    prediction_type: str,
    triples: Triples,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
) -> Tensor:
    """Return the squared error of the network's own prediction per range and image, mean over pixels and draws, [R, M]."""
    losses: list[list[Tensor]] = [[] for _ in triples.t]
    for index, x_t, t, target in noised(triples, schedule, prediction_type, device, batch_size):
        losses[index].append((network(x_t, t) - target).square().flatten(1).mean(1).double())
    draws = triples.t.shape[1]
    return torch.stack([torch.cat(errors).reshape(draws, -1).mean(0).cpu() for errors in losses])


def noised(
    triples: Triples, schedule: NoiseSchedule, prediction_type: str, device: torch.device | str, batch_size: int
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield range, x_t, t and the network's target, a batch of images at a time, range by range and draw by draw."""
    for index, *whole in triples:
        for x0, t, eps in zip(*(part.split(batch_size) for part in whole), strict=True):
            x0, t, eps = x0.to(device), t.to(device), eps.to(device)
            yield index, schedule.add_noise(x0, eps, t), t, schedule.target(prediction_type, x0, eps, t)
