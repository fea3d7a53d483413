"""Models of latents: a trained network, and the frozen parts of its pipeline around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

import torch
from diffusers import ModelMixin
from torch import Tensor

from deme.diffusion import Condition
from deme.models.denoiser import DenoisingModel
from deme.models.frozen import copy_part
from deme.models.layout import JsonObject, read_json_object
from deme.system import write_json


class Encoders(Protocol):
    """The frozen parts of a pipeline in `folder`: its VAE and its text encoders.

    `factor`: pixels of an image per latent pixel, along each side; `num_channels`: of an image.
    `conditions` makes the network's conditioning from texts, `moments` the mean and the standard
    deviation [B, C, h, w] of the scaled latents of images [B, 3, H, W] in -1..1, `images` the
    reverse. `truncated` counts the texts that are too long, where that is known, else 0.
    """

    folder: Path

    @property
    def factor(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    def content_hash(self) -> str: ...

    def to(self, device: torch.device | str) -> Self: ...

    def conditions(self, texts: Sequence[str]) -> Condition: ...

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def images(self, latents: Tensor) -> Tensor: ...

    def truncated(self, texts: Sequence[str]) -> int: ...

    def release(self) -> None: ...


class LatentModel(DenoisingModel):
    """Network, noise schedule and frozen parts; returns the prediction [B, C, h, w].

    `model(x_t [B, C, h, w], t [B], condition)`. Weights folders hold the frozen parts, too: every
    one is a pipeline that stock diffusers loads.
    """

    is_conditional = True
    # model_index.json of a folder without one, but for the network and the scheduler
    index: ClassVar[JsonObject] = {}

    def __init__(
        self, network: ModelMixin, scheduler_config: Mapping[str, object], encoders: Encoders
    ) -> None:
        super().__init__(network, scheduler_config)
        self.encoders = encoders

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        (_, height, width), factor = self.noise_shape, self.encoders.factor
        return self.encoders.num_channels, height * factor, width * factor

    @property
    def size_multiple(self) -> int:
        """What height and width of the latents must be multiples of: the side of a patch."""
        patch: int = self.network.config.get("patch_size") or 1
        return patch

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the network's conditioning for prompts."""
        return self.encoders.to(self.network.device).conditions(texts)

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in -1..1 of latents."""
        return self.encoders.images(x0)

    def write_configs(self, folder: Path, about: Mapping[str, object], links: bool = False) -> None:
        """Write everything of a pipeline's folder but the network's weights."""
        super().write_configs(folder, about)
        source, ours = self.encoders.folder, read_json_object(folder / "model_index.json")
        theirs = read_json_object(source / "model_index.json")
        own = (self.part, "scheduler")
        kept = {n: value for n, value in theirs.items() if n not in own} or self.index
        index = {  # a part such as a safety checker may be left out
            name: [None, None] if isinstance(part, list) and not (source / name).is_dir() else part
            for name, part in kept.items()
        }
        if index.get("safety_checker") == [None, None]:
            index["requires_safety_checker"] = False
        scheduler = self.scheduler_config.get("_class_name", "DDPMScheduler")
        index |= {**ours, "scheduler": ["diffusers", scheduler]}
        write_json(folder / "model_index.json", index)
        for part in kept:
            if (source / part).is_dir():
                copy_part(source / part, folder / part, links)
