"""From an encoded image (png, jpg, webp, bmp) to pixels of one size, by rules that are said."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from deme.system.errors import BadConfig, DemeError, WorkFailed, did_you_mean

RESIZE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
CROPS = ("center", "random", "none")


class Unreadable(WorkFailed):
    """An image that cannot be decoded."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} is not an image that can be read: {reason}\nmove it away, or type: data.corrupt=skip"
        )
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[Any, ...]:  # it travels from processes that read
        return Unreadable, (self.name, self.reason)


def opened(data: bytes, name: str, channels: int | None = None) -> Image.Image:
    """Return an image decoded to its last pixel, upright (EXIF) and without transparency.

    Grey for `channels` 1 and RGB for 3; for None, grey if it is stored so.

    Raises Unreadable if it is damaged or cut short, BadConfig if it has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
                raise BadConfig(
                    f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first"
                )
            grey = image.mode in ("1", "L", "LA") if channels is None else channels == 1
            return ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
    except (DemeError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(name, "its format is unknown" if data else "it is empty") from error
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable(name, (str(error).splitlines() or [type(error).__name__])[0]) from error


def pixels_of(image: Image.Image) -> Tensor:
    """Return a grey or RGB image as uint8 [1 or 3, H, W]."""
    pixels = np.array(image).reshape(image.height, image.width, len(image.getbands()))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@dataclass(frozen=True)
class Rules:
    """How an image becomes uint8 [channels, size, size].

    `resize`: the filter, antialiased. `crop`: the shorter side is resized to `size`, and the "center" or, in training, a "random"
    part of the longer one is kept; "none": both sides are resized to `size`, whatever the aspect. Raises BadConfig.
    """

    size: int
    channels: int = 3
    resize: str = "bicubic"
    crop: str = "center"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise BadConfig(f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels!r}")
        for name, value, allowed in (
            ("resize", self.resize, tuple(RESIZE)),
            ("crop", self.crop, CROPS),
        ):
            if value not in allowed:
                near = did_you_mean(str(value), allowed)
                raise BadConfig(
                    f"data.{name} must be one of {', '.join(allowed)}, got {value!r}; {near}".rstrip(
                        "; "
                    )
                )

    @property
    def how(self) -> str:
        """The rules in words: part of what pixels follow from."""
        if self.crop == "none":
            return f"both sides {self.resize} to {self.size}, {self.channels} channels"
        return f"shorter side {self.resize} to {self.size}, centre crop, {self.channels} channels"

    def apply(self, image: Image.Image, position: float | None = None) -> Tensor:
        """Return the pixels of an image; `position` in [0, 1) says where to cut, the centre if it is None."""
        size = self.size
        if self.crop == "none":
            target = (size, size)
        else:
            scale = size / min(image.size)
            target = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        if image.size != target:
            image = image.resize(target, RESIZE[self.resize])
        left, top = (
            (side - size) // 2 if position is None else int(position * (side - size + 1))
            for side in image.size
        )
        return pixels_of(image.crop((left, top, left + size, top + size)))
