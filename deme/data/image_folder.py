"""Any folder of images, read from disk as needed."""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from deme.data import ImageData
from deme.errors import BadConfig, MissingInput, WorkFailed
from deme.files import sha256, sha256_text
from deme.paths import locate
from deme.seeds import generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):
                raise BadConfig(
                    f"{file} has more than 8 bits a channel (mode {opened.mode}); convert it to 8 bits first"
                )
            yield opened
    except (UnidentifiedImageError, OSError) as error:
        raise WorkFailed(f"{file} is not an image that can be read: {error}\nmove it out of the folder") from error


class ImageFiles:
    """Image files as uint8 [channels, size, size]: the shorter side resized to `size` (bicubic), the centre cropped."""

    def __init__(self, files: list[Path], size: int, channels: int) -> None:
        self.files = files
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, file: Path) -> Tensor:
        """Return one image, uint8 [channels, size, size]."""
        with _opened(file) as opened:
            image = opened.convert("L" if self.channels == 1 else "RGB")
        if min(image.size) != self.size:
            scale = self.size / min(image.size)
            width, height = (max(self.size, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)))
        return torch.from_numpy(pixels.copy()).reshape(self.size, self.size, self.channels).permute(2, 0, 1)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.stack([self.read(self.files[index]) for index in indices])

    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        return sha256_text("\n".join([self.how, *(sha256(file) for file in self.files)]))

    @property
    def how(self) -> str:
        """What happens to an image when it is read."""
        return f"shorter side bicubic to {self.size}, centre crop, {self.channels} channels"


class ImagesAsTheyAre(ImageFiles):
    """Image files of one size, neither resized nor cropped: uint8 [1 or 3, H, W], grey if the first is grey."""

    def __init__(self, files: list[Path]) -> None:
        with _opened(files[0]) as first:
            self.expected = first.size
            channels = 1 if first.mode in ("1", "L", "LA") else 3
        super().__init__(files, min(self.expected), channels)

    def read(self, file: Path) -> Tensor:
        """Return one image. Raises BadConfig for one of another size."""
        with _opened(file) as opened:
            image = opened.convert("L" if self.channels == 1 else "RGB")
        if image.size != self.expected:
            raise BadConfig(
                f"{file} has {image.width} x {image.height} pixels, {self.files[0]} {self.expected[0]} x {self.expected[1]}\n"
                "generated images are measured as they are: give a folder of images of one size"
            )
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    @property
    def how(self) -> str:
        return f"as it is, {self.channels} channels"


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted by path. Raises MissingInput if there are none."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise MissingInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return files


def folder_as_it_is(folder: Path) -> ImagesAsTheyAre:
    """Return the images below a folder for measuring them. Raises MissingInput for an empty one."""
    return ImagesAsTheyAre(image_files(folder))


def load_image_folder(
    path: str, size: int, channels: int = 3, held_out_fraction: float = 0.1, random_flip: bool = True
) -> ImageData:
    """Return the images below `path` (recursively), a random but fixed share of them held out.

    Raises MissingInput if the folder does not exist, BadConfig if it holds too few images to split.
    """
    if channels not in (1, 3):
        raise BadConfig(f"data.channels must be 1 (grey) or 3 (RGB), got {channels}")
    if not 0 < held_out_fraction < 1:
        raise BadConfig(f"data.held_out_fraction must lie strictly between 0 and 1, got {held_out_fraction}")
    files = image_files(locate(path))
    num_held = round(held_out_fraction * len(files))
    if num_held < 2 or num_held > len(files) - 2:
        raise BadConfig(
            f"{path} holds {len(files)} images ({', '.join(SUFFIXES)}); at least 2 must be left on each side of "
            f"data.held_out_fraction={held_out_fraction}"
        )
    order = torch.randperm(len(files), generator=generator("image_folder", len(files))).tolist()
    held, rest = sorted(order[:num_held]), sorted(order[num_held:])
    train, held_out = (ImageFiles([files[i] for i in side], size, channels) for side in (rest, held))
    return ImageData(train, held_out, random_flip)
