"""Generate images as a stream of batches; image i is a function of (seed, i)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from deme.data import to_uint8
from deme.sampling.ddim import DDIM
from deme.seeds import image_noise

Network = Callable[[Tensor, Tensor], Tensor]


@torch.inference_mode()
def generate(
    network: Network,
    scheduler_config: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    sampler: DDIM,
    seed: int,
    first: int,
    count: int,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield images first .. first + count - 1 as uint8 batches [<= batch_size, C, H, W] on the CPU.

    `network(x_t, t)` maps [B, C, H, W] and a timestep per image [B] to the network's prediction.
    """
    scheduler = sampler.scheduler(scheduler_config)
    for start in range(first, first + count, batch_size):
        size = min(batch_size, first + count - start)
        images = image_noise(seed, start, size, image_shape).to(device) * scheduler.init_noise_sigma
        for t in scheduler.timesteps.tolist():
            prediction = network(images, torch.full((size,), t, device=device))
            images = scheduler.step(prediction, t, images).prev_sample
        yield to_uint8(images).cpu()
