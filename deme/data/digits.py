"""scikit-learn's 1,797 handwritten digits (UCI), 8 x 8 grey pixels, which need no download."""

import torch
from sklearn.datasets import load_digits as sklearn_digits
from torch import Tensor

from deme.data import CaptionedImages, ImageData, InMemoryImages
from deme.data.captioned import check_dropout
from deme.diffusion import generator


def pixels_and_labels() -> tuple[Tensor, Tensor]:
    """Return all images, uint8 [1797, 1, 8, 8], and their digits [1797].

    The 17 grey levels are spread over 0..255.
    """
    digits = sklearn_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().byte()[:, None]
    return pixels, torch.from_numpy(digits.target).long()


def split(labels: Tensor, held_out_fraction: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return sorted (train, held-out) indices: a fixed random share of every digit is held out."""
    held = []
    for digit in labels.unique():
        members = (labels == digit).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("digits", int(digit)))
        held.append(members[order[: round(held_out_fraction * len(members))]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def load_digits() -> ImageData:
    """Return the digits, a fifth of each class held out: 1,438 training and 359 held-out images."""
    pixels, labels = pixels_and_labels()
    train, held_out = split(labels)
    return ImageData(InMemoryImages(pixels[train]), InMemoryImages(pixels[held_out]))


def load_labelled_digits(caption_dropout: float = 0.1) -> ImageData:
    """Return the digits of `load_digits` with captions: each is the digit itself, "0" to "9"."""
    pixels, labels = pixels_and_labels()
    train, held_out = (
        CaptionedImages(InMemoryImages(pixels[rows]), [str(int(labels[i])) for i in rows])
        for rows in split(labels)
    )
    return ImageData(train, held_out, caption_dropout=check_dropout(caption_dropout))
