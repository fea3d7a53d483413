"""From an encoded image to pixels of one size.

Whatever an image is called, only the decoders of `FORMATS` see it. Of several frames or pages the
first counts.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from deme.system import BadConfig, DemeError, WorkFailed, did_you_mean, first_line

RESIZE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
CROPS = ("center", "random", "none")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # of Pillow
GREY = ("1", "L", "LA")  # modes of Pillow
BACKGROUND = "white"  # behind transparent pixels
MAX_BYTES = 2**30  # of an encoded image
BITS_PER_SAMPLE = 258  # a tag of TIFF

# Pillow refuses images of more than 178,956,970 pixels; from half of that on it warns
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(WorkFailed):
    """An image that cannot be decoded."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} is not an image that can be read: {reason}\n"
            "move it away, or type: data.corrupt=skip"
        )
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # for worker processes that raise it
        return Unreadable, (self.name, self.reason)


class TooDeep(BadConfig, Unreadable):
    """A whole image of more than 8 bits a channel, which would be clipped."""

    def __init__(self, name: str, mode: str) -> None:
        self.name, self.mode = name, mode
        self.reason = f"more than 8 bits a channel (mode {mode})"
        DemeError.__init__(
            self,
            f"{name} has {self.reason}\nconvert it to 8 bits first, or type: data.corrupt=skip",
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return TooDeep, (self.name, self.mode)


def open_image(
    data: bytes, name: str, channels: int | None = None, background: str = BACKGROUND
) -> Image.Image:
    """Return an image, completely decoded, upright (EXIF), on `background` where transparent.

    Grey for `channels` 1 and RGB for 3; for None, grey if it is stored so. Raises Unreadable if it
    is damaged, truncated, too large or of another format, TooDeep for more than 8 bits a channel.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(name, f"it has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if _more_than_8_bits(image, data):
                raise TooDeep(name, image.mode)
            grey = image.mode in GREY if channels is None else channels == 1
            upright = ImageOps.exif_transpose(image)
            return _without_transparency(upright, background).convert("L" if grey else "RGB")
    except (DemeError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        unknown = f"its format is unknown (allowed: {', '.join(FORMATS)})"
        raise Unreadable(name, unknown if data else "it is empty") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise Unreadable(name, first_line(error)) from error


def _more_than_8_bits(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG" and data[24] > 8:  # the header's bit depth
        return True
    tags = getattr(image, "tag_v2", {})  # TIFF's; Pillow keeps the upper half of RGB of 16 bits
    return image.mode.startswith(("I", "F")) or max(tags.get(BITS_PER_SAMPLE, (8,))) > 8


def is_grey(data: bytes) -> bool:
    """Whether an encoded image is stored as greyscale; False for a damaged one."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.mode in GREY
    except Exception:  # as in open_image, which says so when the pixels are needed
        return False


def is_transparent(data: bytes) -> bool:
    """Whether any pixel of an encoded image is transparent; False for one that is damaged."""
    if data[:2] == b"\xff\xd8" or data[12:16] == b"VP8 ":  # JPEG and plain WebP cannot be
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _has_transparent_pixels(image)
    except Exception:  # as in open_image, which says so when the pixels are needed
        return False


def _has_transparent_pixels(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _without_transparency(image: Image.Image, background: str) -> Image.Image:
    if not _has_transparent_pixels(image):
        return image
    behind = Image.new("RGBA", image.size, (*ImageColor.getrgb(background), 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


def image_to_tensor(image: Image.Image) -> Tensor:
    """Return a grey or RGB image as uint8 [1 or 3, H, W]."""
    pixels = np.array(image).reshape(image.height, image.width, len(image.getbands()))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes uint8 [channels, height, width].

    `size` are the pixels per side, or height and width. `resize` is the antialiased filter. With
    `crop` "center" or, in training, "random", images are resized so that they just cover the size
    (of a square: its shorter side becomes `size`), and what is too much of one side is cropped;
    with "none" both sides are resized, whatever the aspect ratio. `background` is the colour behind
    transparent pixels: a name of CSS or #rrggbb. Raises BadConfig.
    """

    size: int | Sequence[int]
    channels: int = 3
    resize: str = "bicubic"
    crop: str = "center"
    background: str = BACKGROUND

    def __post_init__(self) -> None:
        sides = [self.size] if isinstance(self.size, int) else list(self.size)
        if len(sides) > 2 or not sides or min(sides) < 1:
            raise BadConfig(
                f"data.size must be pixels per side or [<height>,<width>], got {self.size}\n"
                "type: data.size=512, or 'data.size=[512,768]'"
            )
        if self.channels not in (1, 3):
            raise BadConfig(f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels!r}")
        for name, value, allowed in (
            ("resize", self.resize, tuple(RESIZE)),
            ("crop", self.crop, CROPS),
        ):
            if value not in allowed:
                raise BadConfig(
                    f"data.{name} must be one of {', '.join(allowed)}, got {value!r}; "
                    f"{did_you_mean(str(value), allowed)}".rstrip("; ")
                )

        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except (TypeError, AttributeError, ValueError):
            opaque = False
        if not opaque:
            raise BadConfig(
                "data.background must be a colour, such as white, black or '#808080'; "
                f"got {self.background!r}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result, in pixels."""
        sides = [self.size] if isinstance(self.size, int) else list(self.size)
        return sides[0], sides[-1]

    @property
    def _covers(self) -> str:
        """To what an image is resized before it is cropped, in words."""
        height, width = self.shape
        if height == width:
            return f"shorter side {{}} to {height}"
        return f"{{}} to cover {width} x {height}"

    @property
    def description(self) -> str:
        """The preprocessing in words: part of the content hash of images.

        The background is not: it counts for the images that have transparent pixels.
        """
        if self.crop == "none":
            return f"both sides {self.resize} to {self._sides}, {self.channels} channels"
        return f"{self._covers.format(self.resize)}, centre crop, {self.channels} channels"

    @property
    def _sides(self) -> str:
        height, width = self.shape
        return str(height) if height == width else f"{width} x {height}"

    def summary(self, stored: tuple[int, int] | None) -> str:
        """Return what is done to images in words.

        `stored`: width and height of the images, None if they have several.
        """
        colours = "as grey" if self.channels == 1 else "as RGB"
        if stored == self.shape[::-1]:
            return f"not resized, {colours}"
        if self.crop == "none":
            return f"both sides resized to {self._sides} ({self.resize}), {colours}"
        return f"{self._covers.format('resized')} ({self.resize}), centre crop, {colours}"

    def apply(self, image: Image.Image, position: float | None = None) -> Tensor:
        """Return the pixels of an image, cropped at `position` in [0, 1), by default the center."""
        height, width = self.shape
        target = (width, height)
        if self.crop != "none":
            scale = max(width / image.width, height / image.height)
            target = (
                max(width, round(image.width * scale)),
                max(height, round(image.height * scale)),
            )
        if image.size != target:
            image = image.resize(target, RESIZE[self.resize])
        left, top = (
            (side - kept) // 2 if position is None else int(position * (side - kept + 1))
            for side, kept in zip(image.size, (width, height), strict=True)
        )
        return image_to_tensor(image.crop((left, top, left + width, top + height)))


def resized(pixels: Tensor, size: int | None) -> Tensor:
    """Resize uint8 images [B, C, H, W] to [B, C, size, size]; None leaves them as they are.

    By Pillow's antialiased bicubic filter, as the COCO protocol does (docs/metrics.md).
    """
    if size is None:
        return pixels
    preprocessing = Preprocessing(size, pixels.shape[1], "bicubic", "none")
    images = pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)
    return torch.stack([preprocessing.apply(Image.fromarray(image)) for image in images.numpy()])
