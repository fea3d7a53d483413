"""A data set from encoded images: split, in memory or read on demand, without damaged images."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from deme.data import (
    CaptionedImages,
    ImageData,
    Images,
    InMemoryImages,
    MaskedImages,
    SomeImages,
)
from deme.data.decode import BACKGROUND, Preprocessing
from deme.data.encoded import EncodedImages, ImageSource, RandomlyCropped
from deme.data.in_memory_images import DecodedImages
from deme.data.inspection import Inspection
from deme.diffusion import generator
from deme.system import BadConfig

IN_MEMORY_BYTES = 2**30  # the largest set that in_memory=null keeps in memory
CORRUPT = ("refuse", "skip")


def split_indices(
    count: int, fraction: float, name: str = "image_folder"
) -> tuple[list[int], list[int]]:
    """Return sorted (train, held-out) indices: a random split that `count` and `name` determine."""
    order = torch.randperm(count, generator=generator(name, count)).tolist()
    num_held = round(fraction * count)
    return sorted(order[num_held:]), sorted(order[:num_held])


def part_of_held_out(data: ImageData, part: str | None) -> ImageData:
    """Return a data set of which half of the held-out images are left: "validation" or "test".

    Which images these are, the number of held-out images determines. None: all are left.
    """
    if part is None:
        return data
    first, second = split_indices(len(data.held_out), 0.5, "parts of the held-out images")
    return replace(data, held_out=SomeImages(data.held_out, first if part == "test" else second))


def check_held_out(held_out: str | float) -> None:
    """Raise BadConfig unless it is "test" or a share of the training images."""
    if held_out != "test" and (not isinstance(held_out, float) or not 0 < held_out < 1):
        raise BadConfig(f"data.held_out must be test, or a share between 0 and 1; got {held_out!r}")


def hold_out_share(pixels: Tensor, held_out: float, random_flip: bool, name: str) -> ImageData:
    """Return uint8 images [N, C, H, W], a random share of which, fixed by `name`, is held out.

    Raises BadConfig if a side has fewer than 2 images.
    """
    train, held = split_indices(len(pixels), held_out, name)
    if min(len(train), len(held)) < 2:
        raise BadConfig(
            f"data.held_out={held_out} leaves fewer than 2 of {len(pixels):,} images on one side"
        )
    return ImageData(InMemoryImages(pixels[train]), InMemoryImages(pixels[held]), random_flip)


def split_dataset(
    source: ImageSource,
    preprocessing: Preprocessing,
    held_out_fraction: float,
    random_flip: bool,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    cache: Path | None = None,
    captions: Sequence[str] | None = None,
    masks: ImageSource | None = None,
) -> ImageData:
    """Return the images of a source, a fixed random share of them held out.

    With `captions`, one for each, images have captions, and those whose caption is empty are on
    neither side; with `masks`, too, they also have masks. Images that show the same picture are on
    the side of the first of them; if that leaves too few on one side, none is held out. Raises
    BadConfig for a wrong setting, or if there are too few images to split.
    """
    if not isinstance(held_out_fraction, float) or not 0 < held_out_fraction < 1:
        raise BadConfig(
            f"data.held_out_fraction must lie strictly between 0 and 1, got {held_out_fraction!r}"
        )
    if corrupt not in CORRUPT:
        raise BadConfig(f"data.corrupt must be {' or '.join(CORRUPT)}, got {corrupt!r}")
    if in_memory not in (None, True, False):
        raise BadConfig(f"data.in_memory must be null, true or false, got {in_memory!r}")
    if in_memory and preprocessing.crop == "random":
        raise BadConfig(
            "data.crop=random crops whole images, which are read on demand\n"
            "type: data.in_memory=null"
        )
    inspection = Inspection(source, preprocessing.background, cache)
    bad = {index for index, caption in enumerate(captions or ()) if not caption}
    if corrupt == "skip":
        bad |= inspection.damaged()
    else:
        inspection.refuse_damaged()
    kept = set(range(len(source))) - bad
    drawn = kept & set(split_indices(len(source), held_out_fraction)[1])
    if min(len(kept) - len(drawn), len(drawn)) < 2:
        raise BadConfig(
            f"{len(kept)} images are too few: data.held_out_fraction="
            f"{held_out_fraction} must leave at least 2 on each side"
        )
    inspection.log_copies("; none is held out of which training sees a copy")
    held_out = _with_their_copies(drawn, kept, inspection.copies)
    train = sorted(kept.difference(held_out))

    cropped = preprocessing.crop == "random"
    num_decoded = len(held_out) if cropped else len(kept)
    fits = num_decoded * preprocessing.channels * prod(preprocessing.shape) <= IN_MEMORY_BYTES

    def images(indices: list[int]) -> Images:
        encoded = EncodedImages(source, indices, preprocessing, cache)
        read = DecodedImages(encoded) if in_memory or (in_memory is None and fits) else encoded
        if captions is None:
            return read
        texts = [captions[i] for i in indices]
        if masks is None:
            return CaptionedImages(read, texts)
        grey = replace(preprocessing, channels=1, background=BACKGROUND)
        return MaskedImages(read, texts, EncodedImages(masks, indices, grey, cache))

    for_training = (
        RandomlyCropped(source, train, preprocessing, cache) if cropped else images(train)
    )
    positions = ", in training at random positions" if cropped else ""
    summary = preprocessing.summary(inspection.smallest if inspection.of_one_size else None)
    preparation = f"{inspection.stored}: {summary}{positions}"
    left_out = len(source) - len(kept)
    return ImageData(
        for_training, images(held_out), random_flip, preparation=preparation, left_out=left_out
    )


def _with_their_copies(
    drawn: set[int], kept: set[int], copies: Sequence[Sequence[int]]
) -> list[int]:
    """Return the images to hold out, sorted: all or none that show the same picture."""
    held_out = set(drawn)
    for first, *others in copies:
        if first in drawn:
            held_out.update(kept.intersection(others))
        else:
            held_out.difference_update(others)
    if min(len(kept) - len(held_out), len(held_out)) < 2:
        return []
    return sorted(held_out)
