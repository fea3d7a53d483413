"""Data sets of images: what a training set is, and how many images it holds."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from deme.diffusion.conditioning import EMPTY_CONDITION, Condition
from deme.diffusion.seeds import ShardedRandom


class Images(Protocol):
    """A finite set of uint8 images [C, H, W], read in batches of indices.

    `content_hash` is a sha256 of all that the images follow from: statistics of them are kept under it.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Tensor: ...

    def content_hash(self) -> str: ...


@runtime_checkable
class Croppable(Images, Protocol):
    """Images of which training cuts a part at random; `__getitems__` cuts the centre, which everything else sees."""

    def cropped(self, indices: list[int], positions: Sequence[float]) -> Tensor:
        """Return images cut at `positions` in [0, 1) of what there is to choose."""
        ...


@runtime_checkable
class Captioned(Images, Protocol):
    """Images with a caption each. Captions are part of the content hash."""

    def captions(self, indices: list[int]) -> list[str]: ...


@runtime_checkable
class EncodedDataset(Protocol):
    """Images as a network sees them, where that is more than their pixels in -1..1: their latents, and what it is told.

    `__getitems__` reads a batch, in another process perhaps; what it returns are tensors by name, a row per image. Indices
    from `len` on are the mirror images, where there are some.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]: ...

    def training_sample(
        self, batch: dict[str, Tensor], draws: ShardedRandom
    ) -> tuple[Tensor, Condition]:
        """Return x_0 [B, C, H, W] and the condition of a batch to train on, with this step's draws."""
        ...

    def eval_sample(self, indices: list[int]) -> tuple[Tensor, Condition]:
        """Return x_0 and the condition of some images, without any draw: to judge by."""
        ...

    def content_hash(self) -> str: ...


@dataclass(frozen=True)
class ImageData:
    """A data set: images to train on, images to judge by, and whether training mirrors them left-right at random.

    Of captioned images training sees a share of `caption_dropout` without their captions: what classifier-free guidance needs.
    """

    train: Images
    held_out: Images
    random_flip: bool = False
    caption_dropout: float = 0.0


class InMemoryImages:
    """Images that are one uint8 tensor [N, C, H, W]."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    @property
    def pixels(self) -> Tensor:
        """All images, uint8 [N, C, H, W]."""
        return self._pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.pixels.index_select(0, torch.tensor(indices, dtype=torch.long))

    def content_hash(self) -> str:
        return _sha256(str(tuple(self.pixels.shape)), self.pixels.numpy().tobytes())


class SomeImages:
    """Images `indices` of another set; `Captioned` if that is."""

    def __new__(cls, images: Images | None = None, indices: Sequence[int] = ()) -> "SomeImages":  # noqa: ARG004
        return super().__new__(SomeCaptioned if isinstance(images, Captioned) else cls)

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images.__getitems__([self.indices[i] for i in indices])

    def content_hash(self) -> str:
        return _sha256(self.images.content_hash(), repr(self.indices))


class SomeCaptioned(SomeImages):
    """The same of captioned images."""

    images: Captioned

    def captions(self, indices: list[int]) -> list[str]:
        return self.images.captions([self.indices[i] for i in indices])


def _sha256(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def batches(images: Images, size: int, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the images `indices` as uint8 batches [<= size, C, H, W]."""
    for start in range(0, len(indices), size):
        yield images.__getitems__(list(indices[start : start + size]))


def every(images: Images) -> Tensor:
    """Return all images as one uint8 tensor [N, C, H, W]."""
    return images.__getitems__(list(range(len(images))))


def to_float(pixels: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 -1..1."""
    return pixels.float().div_(127.5).sub_(1)


def eval_sample(images: Images | EncodedDataset, indices: list[int]) -> tuple[Tensor, Condition]:
    """Return x_0 [B, C, H, W] and the condition of images, as a network is to see them."""
    if isinstance(images, EncodedDataset):
        return images.eval_sample(indices)
    return to_float(images.__getitems__(indices)), EMPTY_CONDITION


def training_pixels(batch: Tensor, draws: ShardedRandom) -> tuple[Tensor, Condition]:  # noqa: ARG001
    """Return x_0 and no condition of uint8 pixels to train on."""
    return to_float(
        batch
    ).contiguous(), EMPTY_CONDITION  # what compiling was told, whatever the data set's layout


def training_sampler(
    images: Images | EncodedDataset,
) -> Callable[[Any, ShardedRandom], tuple[Tensor, Condition]]:
    """Return what makes x_0 and the condition of a batch of images to train on."""
    return images.training_sample if isinstance(images, EncodedDataset) else training_pixels


def mirrored(pixels: Tensor, which: Tensor) -> Tensor:
    """Return uint8 images [B, C, H, W], those of `which` (booleans [B]) mirrored left-right."""
    bits = which.to(pixels.device, torch.uint8).mul_(255)[:, None, None, None]
    # torch.where, five times as slow, with bits: p ^ ((p ^ flipped) & bits)
    return pixels.flip(3).bitwise_xor_(pixels).bitwise_and_(bits).bitwise_xor_(pixels)


def to_uint8(images: Tensor) -> Tensor:
    """Map -1..1 (clamped) to uint8 0..255, rounded as a PNG would be."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
