"""scikit-learn's digits, 16 x 16 in three equal channels, with captions that name them."""

import re

import torch

from deme.data import CaptionedImages, ImageData, InMemoryImages
from deme.data.captioned import check_dropout
from deme.data.decode import resized
from deme.data.digits import pixels_and_labels, split
from deme.diffusion import generator

SIDE = 16
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the digit {}", "the digit {}", "a handwritten {}")


def digit_in(text: str) -> int | None:
    """Return the digit that a text names as a word or a figure, None if not exactly one."""
    words = re.findall(r"[a-z]+|[0-9]+", text.lower())
    found = {
        NUMERALS.index(word) if word in NUMERALS else int(word) for word in words if word in _NAMES
    }
    return found.pop() if len(found) == 1 else None


_NAMES = {*NUMERALS, *map(str, range(10))}


def caption(digit: int, template: int) -> str:
    """Return a phrase that names a digit."""
    return TEMPLATES[template].format(NUMERALS[digit])


def load_captioned_digits(caption_dropout: float = 0.1) -> ImageData:
    """Return the digits of `data=digits`, split and ordered alike, with captions; never mirrored.

    They are resized by Pillow's bicubic filter, whose integer arithmetic is the same on every
    machine.
    """
    pixels, labels = pixels_and_labels()
    images = resized(pixels, SIDE).repeat(1, 3, 1, 1)
    templates = torch.randint(
        len(TEMPLATES), (len(labels),), generator=generator("captioned digits")
    )
    texts = [caption(*pair) for pair in zip(labels.tolist(), templates.tolist(), strict=True)]
    train, held_out = (
        CaptionedImages(InMemoryImages(images[rows]), [texts[i] for i in rows.tolist()])
        for rows in split(labels)
    )
    return ImageData(train, held_out, caption_dropout=check_dropout(caption_dropout))
