"""The denoising loss on fixed (x0, t, eps) triples of held-out images: the same triples for every model."""

from collections.abc import Callable, Sequence
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
    """Images [M, C, H, W], timesteps [R, K, M] (K draws in each of R ranges per image) and one noise per triple."""

    x0: Tensor
    t: Tensor
    eps: Tensor

    def of(self, rows: list[int]) -> "Triples":
        """Return the triples of some of the images."""
        return Triples(self.x0[rows], self.t[:, :, rows], self.eps[:, :, rows])


def fixed_triples(images: Images, ranges: Sequence[TimestepRange], draws: int, seed: int) -> Triples:
    """Draw `draws` timesteps per image and range; they depend on the seed and the shapes alone."""
    x0 = to_float(every(images))
    draw = generator("triples", seed)
    t = torch.stack([torch.randint(r.low, r.high, (draws, len(x0)), generator=draw) for r in ranges])
    eps = torch.randn((len(ranges), draws, *x0.shape), generator=draw)
    return Triples(x0, t, eps)


@torch.inference_mode()
def denoising_loss(
    network: Network,
    schedule: NoiseSchedule,
    prediction_type: str,
    triples: Triples,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the squared error of the network's own prediction per range and image, mean over pixels and draws, [R, M]."""
    x0 = triples.x0.to(device)
    losses = []
    for t_range, eps_range in zip(triples.t, triples.eps, strict=True):
        errors = []
        for t_cpu, eps_cpu in zip(t_range, eps_range, strict=True):
            t, eps = t_cpu.to(device), eps_cpu.to(device)
            target = schedule.target(prediction_type, x0, eps, t)
            prediction = network(schedule.add_noise(x0, eps, t), t)
            errors.append((prediction - target).square().flatten(1).mean(1).double())
        losses.append(torch.stack(errors).mean(0).cpu())
    return torch.stack(losses)
