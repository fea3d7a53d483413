"""Generate images as a stream of batches; image i is a function of (seed, i)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deme.data import to_uint8
from deme.sampling.routed import Network, RoutedModel
from deme.sampling.sampler import Sampler
from deme.seeds import image_generator


class _Batch:
    """Images on their way from noise, with their own generators and a scheduler that remembers their steps."""

    def __init__(
        self,
        sampler: Sampler,
        scheduler_config: Mapping[str, Any],
        image_shape: tuple[int, int, int],
        generators: list[torch.Generator],
        device: torch.device | str,
    ) -> None:
        self.sampler, self.generators, self.device = sampler, generators, device
        self.scheduler = sampler.scheduler(scheduler_config)
        noise = torch.stack([torch.randn(image_shape, generator=each) for each in generators])
        self.images = noise.to(device) * self.scheduler.init_noise_sigma

    def advance(self, network: Network, timesteps: Sequence[int]) -> None:
        for t in timesteps:
            model_input = self.scheduler.scale_model_input(self.images, t)
            prediction = network(model_input, torch.full((len(self.images),), t, device=self.device))
            step = self.scheduler.step(
                prediction, t, self.images, generator=self.generators, **self.sampler.step_options
            )
            self.images = step.prev_sample


@torch.inference_mode()
def generate(
    network: Network,
    scheduler_config: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    sampler: Sampler,
    seed: int,
    indices: Sequence[int],
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield the images `indices` of a seed as uint8 batches [<= batch_size, C, H, W] on the CPU.

    `network(x_t, t)` maps [B, C, H, W] and a timestep per image [B] to the network's prediction. Initial noise and the noise
    of every step come from image i's own generator. Unmerged experts (a RoutedModel) work on all images one after another,
    so that each expert is brought in once.
    """
    timesteps = sampler.scheduler(scheduler_config).timesteps.tolist()
    parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    segments, sweeps = [timesteps], [[part] for part in parts]
    if isinstance(network, RoutedModel):
        segments, sweeps = network.segments(timesteps), [parts]
    for together in sweeps:
        batches = [
            _Batch(sampler, scheduler_config, image_shape, [image_generator(seed, i) for i in part], device)
            for part in together
        ]
        for segment in segments:
            for batch in batches:
                batch.advance(network, segment)
        for batch in batches:
            yield to_uint8(batch.images).cpu()
