"""A data set out of a source of encoded images: split, decoded once or as needed, damaged images refused or left out."""

from collections.abc import Collection
from pathlib import Path

import torch

from deme.data import ImageData, Images
from deme.data.decode import Rules
from deme.data.decoded_once import DecodedOnce, Say
from deme.data.encoded import EncodedImages, RandomlyCropped, Source
from deme.data.unreadable import unreadable_in
from deme.diffusion.seeds import generator
from deme.system.errors import BadConfig

IN_MEMORY_BYTES = 2**30  # without being told, no more than this is kept
CORRUPT = ("refuse", "skip")


def quiet(_: str) -> None:
    """Say nothing."""


def split(count: int, fraction: float) -> tuple[list[int], list[int]]:
    """Return sorted (train, held-out) indices of `count` images: a random share, always the same of so many."""
    order = torch.randperm(count, generator=generator("image_folder", count)).tolist()
    num_held = round(fraction * count)
    return sorted(order[num_held:]), sorted(order[:num_held])


def encoded_data(
    source: Source,
    rules: Rules,
    held_out_fraction: float,
    random_flip: bool,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    cache: Path | None = None,
    say: Say = quiet,
    left_out: Collection[int] = (),
) -> ImageData:
    """Return the images of a source, a random but fixed share of them held out, those of the indices `left_out` on neither side.

    Raises BadConfig for a setting that is none, or if there are too few images to split.
    """
    if not isinstance(held_out_fraction, float) or not 0 < held_out_fraction < 1:
        raise BadConfig(
            f"data.held_out_fraction must lie strictly between 0 and 1, got {held_out_fraction!r}"
        )
    if corrupt not in CORRUPT:
        raise BadConfig(f"data.corrupt must be {' or '.join(CORRUPT)}, got {corrupt!r}")
    if in_memory not in (None, True, False):
        raise BadConfig(f"data.in_memory must be null, true or false, got {in_memory!r}")
    if in_memory and rules.crop == "random":
        raise BadConfig(
            "crop=random cuts from whole images, which are read as needed\ntype: data.in_memory=null"
        )
    bad = {*left_out, *(unreadable_in(source, cache, say) if corrupt == "skip" else ())}
    sides = [
        [index for index in side if index not in bad]
        for side in split(len(source), held_out_fraction)
    ]
    if min(map(len, sides)) < 2:
        raise BadConfig(
            f"{len(source) - len(bad)} images are too few: at least 2 must be left on each side of "
            f"data.held_out_fraction={held_out_fraction}"
        )
    bytes_per_image = rules.channels * rules.size**2

    def images(indices: list[int], together: int) -> Images:
        encoded = EncodedImages(source, indices, rules, cache)
        fits = together * bytes_per_image <= IN_MEMORY_BYTES
        return DecodedOnce(encoded, say) if in_memory or (in_memory is None and fits) else encoded

    train, held_out = sides
    if rules.crop == "random":
        return ImageData(
            RandomlyCropped(source, train, rules, cache),
            images(held_out, len(held_out)),
            random_flip,
        )
    together = len(train) + len(held_out)
    return ImageData(images(train, together), images(held_out, together), random_flip)
