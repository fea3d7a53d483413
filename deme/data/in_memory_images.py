"""Encoded images decoded by several threads: kept in memory, or to find those that cannot be."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import PIL
import torch
from torch import Tensor
from typing_extensions import TypedDict

from deme.data import InMemoryImages
from deme.data.decode import Unreadable, open_image
from deme.data.encoded import EncodedImages, ImageSource
from deme.system import WorkFailed, files, logger, progress, read_cached, sha256_text

CHUNK = 1024  # images queued at once, so that a stop signal is obeyed soon
NAMED = 3  # of the images that cannot be decoded, in the error message
LISTED = 20  # in the message about those that are left out; the file in the cache names all


class DecodedImages(InMemoryImages):
    """`EncodedImages` as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: EncodedImages) -> None:
        self.images = images

    @cached_property
    def pixels(self) -> Tensor:
        """All images, decoded at first use. Raises WorkFailed with the number of damaged ones."""
        how, count = self.images.preprocessing, len(self)
        pixels = torch.empty(count, how.channels, how.size, how.size, dtype=torch.uint8)

        def put(index: int) -> None:
            pixels[index] = self.images.read(index)

        bad = list(unreadable_among(put, count, "decoding images").values())
        if len(bad) == 1:
            raise bad[0]
        if bad:
            more = ", ..." if len(bad) > NAMED else ""
            raise WorkFailed(
                f"{len(bad):,} of {count:,} images cannot be read: "
                f"{', '.join(error.name for error in bad[:NAMED])}{more}\n"
                "move them away, or type: data.corrupt=skip"
            )
        return pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if "pixels" not in vars(self) and len(indices) == 1:  # the shape is asked for
            return self.images.__getitems__(indices)
        return super().__getitems__(indices)

    def content_hash(self) -> str:
        return self.images.content_hash()


def unreadable_in(source: ImageSource, cache: Path | None) -> set[int]:
    """Return the indices of the images that cannot be decoded, and log which they are.

    All images are decoded once per listing: names, sizes and times of change.
    """
    where = ""
    found: list[Damaged] | None
    if cache is None:
        found = _damaged(source)
    else:
        key = sha256_text(f"{PIL.__version__} {source.listing()}")[:32]
        file = cache / "unreadable" / f"{key}.json"
        with files.locked(
            file.with_suffix(".lock"),
            lambda owner: logger.info(f"{owner} is reading the images; waiting for it"),
        ):
            found = read_cached(file, list[Damaged])
            if found is None:
                found = _damaged(source)
                files.write_json(file, found)
        where = f"; all of them: {file}"
    if found:
        named = ", ".join(f"{one['name']} ({one['reason']})" for one in found[:LISTED])
        more = f" and {len(found) - LISTED:,} more{where}" if len(found) > LISTED else ""
        logger.info(
            f"{len(found):,} of {len(source):,} images cannot be read and are left out: "
            f"{named}{more}"
        )
    return {one["index"] for one in found}


class Damaged(TypedDict):
    """An image of a source that cannot be decoded."""

    index: int
    name: str
    reason: str


def _damaged(source: ImageSource) -> list[Damaged]:
    """Return every image of a source that cannot be decoded."""
    errors = unreadable_among(
        lambda index: open_image(source.read(index), source.name(index)),
        len(source),
        "checking images",
    )
    return [
        {"index": index, "name": error.name, "reason": error.reason}
        for index, error in errors.items()
    ]


def unreadable_among(
    decode: Callable[[int], object], count: int, name: str
) -> dict[int, Unreadable]:
    """Call `decode(index)` for `count` images, in threads; return what it raises, by index.

    `name` is that of the step whose progress is shown.
    """

    def error_of(index: int) -> Unreadable | None:
        try:
            decode(index)
        except Unreadable as error:
            return error
        return None

    errors: list[Unreadable | None] = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress(name, count, "images") as bar,
    ):
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            errors += pool.map(error_of, chunk)
            bar.advance(len(chunk))
    return {index: error for index, error in enumerate(errors) if error is not None}
