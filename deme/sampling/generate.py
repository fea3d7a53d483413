"""Generate images as a stream of batches; image i is a function of (seed, i)."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from deme.data.pixels import to_uint8
from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    Network,
    bind_condition,
    image_generator,
    moved,
)
from deme.sampling.routed import RoutedModel
from deme.sampling.sampler import Sampler, Step
from deme.system import NotFinite


class _Batch:
    """A batch of images in denoising, with a generator each and a scheduler of their own."""

    def __init__(
        self,
        sampler: Sampler,
        scheduler_config: Mapping[str, object],
        image_shape: tuple[int, int, int],
        generators: list[torch.Generator],
        device: torch.device | str,
        condition: Condition,
    ) -> None:
        self.device, self.condition = device, moved(condition, device)
        self.scheduler = sampler.scheduler(scheduler_config)
        noise = torch.stack([torch.randn(image_shape, generator=each) for each in generators])
        self.images = noise.to(device) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        self.options: dict[str, object] = dict(sampler.step_options)
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            self.options["generator"] = generators

    def advance(self, network: Network, steps: Sequence[Step]) -> None:
        network, scheduler = bind_condition(network, self.condition), self.scheduler
        scale = getattr(scheduler, "scale_model_input", lambda images, _: images)
        for time, t in steps:
            dtype = torch.int64 if isinstance(t, int) else torch.float64
            times = torch.full((len(self.images),), t, dtype=dtype, device=self.device)
            prediction = network(scale(self.images, time), times)
            self.images = scheduler.step(prediction, time, self.images, **self.options).prev_sample


@torch.no_grad()  # not inference_mode, which fully_shard cannot leave again
def generate(
    network: Network,
    scheduler_config: Mapping[str, object],
    image_shape: tuple[int, int, int],
    sampler: Sampler,
    seed: int,
    indices: Sequence[int],
    batch_size: int,
    device: torch.device | str = "cpu",
    conditions: Callable[[Sequence[int]], Condition] = lambda _: EMPTY_CONDITION,
    decode: Callable[[Tensor], Tensor] = lambda x0: x0,
    seeds: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Yield the images `indices` of a seed as uint8 batches [<= batch_size, C, H, W] on the CPU.

    `network(x_t, t)` maps [B, *image_shape] and a timestep per image [B] to the prediction;
    `conditions` returns the condition of some images, and `decode` maps x_0 to images in -1..1.
    Initial noise and the noise of every step come from image i's own generator, which follows from
    (seed, i), or from (seed, seeds[i]) where prompts have seeds of their own. Unmerged experts (a
    RoutedModel) work on all images one after another, so that each expert is loaded once.
    """
    steps = sampler.steps(sampler.scheduler(scheduler_config), scheduler_config)
    parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    segments, sweeps = [steps], [[part] for part in parts]
    if isinstance(network, RoutedModel):
        segments, sweeps = network.segments(steps), [parts]
    for together in sweeps:
        batches = [
            _Batch(
                sampler,
                scheduler_config,
                image_shape,
                [image_generator(seed, seeds[i] if seeds else i) for i in part],
                device,
                conditions(part),
            )
            for part in together
        ]
        for segment in segments:
            for batch in batches:
                batch.advance(network, segment)
        for part, batch in zip(together, batches, strict=True):
            yield to_uint8(_finite(decode(_finite(batch.images, seed, part)), seed, part)).cpu()


def _finite(images: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
    """Return the images. Raises NotFinite that names the first with NaN or infinite values."""
    finite = images.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise NotFinite(
            f"image {indices[finite.index(False)]} of sampling seed {seed} has NaN or infinite "
            f"values ({finite.count(False)} of {len(finite)} images of its batch)\n"
            "the weights are damaged, too large for this precision, or do not fit the noise "
            "schedule; to rule out the precision, type: compute.precision=32-true"
        )
    return images
