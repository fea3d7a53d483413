"""Data sets of images: what a training set is, and how many images it holds."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Images(Protocol):
    """A finite set of uint8 images [C, H, W], read in batches of indices."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Tensor: ...


@dataclass(frozen=True)
class ImageData:
    """A data set: images to train on, images to judge by, and whether training mirrors them left-right at random."""

    train: Images
    held_out: Images
    random_flip: bool = False


class InMemoryImages:
    """Images that are one uint8 tensor [N, C, H, W]."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.pixels[indices]


def every(images: Images) -> Tensor:
    """Return all images as one uint8 tensor [N, C, H, W]."""
    return images.__getitems__(list(range(len(images))))


def to_float(pixels: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 -1..1."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map -1..1 (clamped) to uint8 0..255, rounded as a PNG would be."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
