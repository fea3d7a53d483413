"""Data sets of images: what a data set is, and those that are made of tensors or of other sets."""

import bisect
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from deme.data.pixels import to_float
from deme.diffusion import EMPTY_CONDITION, Condition, ShardedRandom, generator
from deme.system import sha256_text

MASK_THRESHOLD = 128  # pixels of a mask of at least this value are filled in


class Images(Protocol):
    """A finite set of uint8 images [C, H, W], read in batches of indices.

    `content_hash` is a sha256 of everything that determines the pixels; statistics are cached under
    it.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Tensor: ...

    def content_hash(self) -> str: ...


@runtime_checkable
class Croppable(Images, Protocol):
    """Images that training crops at random positions; `__getitems__` returns center crops."""

    def cropped(self, indices: list[int], positions: Sequence[float]) -> Tensor:
        """Return crops at `positions`, each in [0, 1) of the possible offsets."""


@runtime_checkable
class Captioned(Images, Protocol):
    """Images with a caption each. Captions are part of the content hash."""

    def captions(self, indices: list[int]) -> list[str]: ...


@runtime_checkable
class EncodedDataset(Protocol):
    """Images in the form a conditional latent model takes: latents and a condition each.

    `__getitems__` reads a batch, in a worker process perhaps, as tensors by name with one row per
    image; where `flips` is true, of the mirror image. `training_sample` makes x_0 and the condition
    of a batch in the training process.
    """

    def __len__(self) -> int: ...

    def __getitems__(
        self, indices: list[int], flips: Sequence[bool] | None = None
    ) -> dict[str, Tensor]: ...

    def training_sample(
        self, batch: dict[str, Tensor], draws: ShardedRandom
    ) -> tuple[Tensor, Condition]:
        """Return x_0 [B, C, H, W] and the condition of a training batch, with this step's draws."""

    def eval_sample(self, indices: list[int]) -> tuple[Tensor, Condition]:
        """Return x_0 [B, C, H, W] and the condition of images, without any randomness."""

    def content_hash(self) -> str: ...


@dataclass(frozen=True)
class ImageData:
    """A data set: training images, held-out images, and the augmentation of training images.

    `random_flip` mirrors training images left-right with probability 1/2. `caption_dropout` is the
    share of training captions that is replaced by the empty caption, for classifier-free guidance.
    `preparation` describes how stored images were resized and cropped. `left_out` is the number of
    images that are neither training nor held-out images.
    """

    train: Images
    held_out: Images
    random_flip: bool = False
    caption_dropout: float = 0.0
    preparation: str = ""
    left_out: int = 0

    @property
    def description(self) -> str:
        """A one-line description of the images and their preprocessing."""
        channels, height, width = self.train.__getitems__([0]).shape[1:]
        pixels = f"{height} x {width} {'grey' if channels == 1 else 'RGB'}"
        return "; ".join(
            [
                f"{len(self.train):,} training images, {len(self.held_out):,} held out",
                self.preparation or f"{pixels} as they are",
                "mirrored at random in training" if self.random_flip else "not mirrored",
                f"{self.left_out:,} left out" if self.left_out else "none left out",
            ]
        )


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
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.numpy().tobytes())
        return digest.hexdigest()


class CaptionedImages:
    """Images of another set with a caption each; the hash covers both."""

    def __init__(self, images: Images, captions: list[str]) -> None:
        assert len(images) == len(captions)
        self.images, self._captions = images, captions

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images.__getitems__(indices)

    def captions(self, indices: list[int]) -> list[str]:
        return [self._captions[index] for index in indices]

    def content_hash(self) -> str:
        return sha256_text(json.dumps([self.images.content_hash(), *self._captions]))


@runtime_checkable
class Masked(Captioned, Protocol):
    """Captioned images with a mask each. Masks are part of the content hash."""

    def masks(self, indices: list[int]) -> Tensor:
        """Return the masks, uint8 [B, 1, H, W]: 255 where pixels are to be filled in, else 0."""


class MaskedImages(CaptionedImages):
    """Captioned images with a mask each; the hash covers all."""

    def __init__(self, images: Images, captions: list[str], masks: Images) -> None:
        super().__init__(images, captions)
        assert len(masks) == len(images)
        self._masks = masks

    def masks(self, indices: list[int]) -> Tensor:
        return 255 * (self._masks.__getitems__(indices) >= MASK_THRESHOLD).to(torch.uint8)

    def content_hash(self) -> str:
        return sha256_text(f"{super().content_hash()} {self._masks.content_hash()}")


class SomeImages:
    """Images `indices` of another set; `Captioned` if that is."""

    def __new__(cls, images: Images | None = None, *_: object, **__: object) -> "SomeImages":
        if isinstance(images, Masked):
            return super().__new__(SomeMasked)
        return super().__new__(SomeCaptioned if isinstance(images, Captioned) else cls)

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images.__getitems__([self.indices[i] for i in indices])

    def content_hash(self) -> str:
        return sha256_text(f"{self.images.content_hash()}{self.indices!r}")


class SomeCaptioned(SomeImages):
    """Images `indices` of another set, with their captions."""

    images: Captioned

    def captions(self, indices: list[int]) -> list[str]:
        return self.images.captions([self.indices[i] for i in indices])


class SomeMasked(SomeCaptioned):
    """Images `indices` of another set, with their captions and masks."""

    images: Masked

    def masks(self, indices: list[int]) -> Tensor:
        return self.images.masks([self.indices[i] for i in indices])


def chosen_images(images: Images, count: int, *keys: int | str) -> Images:
    """Return `count` images, all if there are no more: a random choice that follows from `keys`.

    The first ones may all be of one kind.
    """
    if count >= len(images):
        return images
    order = torch.randperm(len(images), generator=generator(*keys))
    return SomeImages(images, sorted(order[:count].tolist()))


class JoinedImages:
    """The images of several sets of one shape, one set after the other."""

    def __init__(self, sets: Sequence[Images]) -> None:
        self.sets = list(sets)
        self.ends = list(accumulate(len(images) for images in self.sets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitems__(self, indices: list[int]) -> Tensor:
        found: list[Tensor] = []
        for which, group in groupby(indices, lambda index: bisect.bisect_right(self.ends, index)):
            first = self.ends[which] - len(self.sets[which])
            found.append(self.sets[which].__getitems__([index - first for index in group]))
        return torch.cat(found)

    def content_hash(self) -> str:
        return sha256_text("\n".join(images.content_hash() for images in self.sets))


def eval_sample(images: Images | EncodedDataset, indices: list[int]) -> tuple[Tensor, Condition]:
    """Return x_0 [B, C, H, W] and the condition of images in the form a network takes."""
    if isinstance(images, EncodedDataset):
        return images.eval_sample(indices)
    return to_float(images.__getitems__(indices)), EMPTY_CONDITION


def training_pixels(
    batch: Tensor,
    draws: ShardedRandom,  # noqa: ARG001
) -> tuple[Tensor, Condition]:
    """Return x_0 in -1..1 and the empty condition of a training batch of uint8 pixels."""
    # contiguous: the layout that the compiled network was traced with
    return to_float(batch).contiguous(), EMPTY_CONDITION


def training_sampler(images: Images | EncodedDataset) -> Callable[..., tuple[Tensor, Condition]]:
    """Return the function (batch, draws) -> (x_0, condition) for training batches of `images`."""
    return images.training_sample if isinstance(images, EncodedDataset) else training_pixels


def batches(images: Images, size: int, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the images `indices` as uint8 batches [<= size, C, H, W]."""
    for start in range(0, len(indices), size):
        yield images.__getitems__(list(indices[start : start + size]))


def every(images: Images) -> Tensor:
    """Return all images as one uint8 tensor [N, C, H, W]."""
    return images.__getitems__(list(range(len(images))))
