"""Encoded images of a set that fits in memory: decoded at first use, all at once, by several threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from deme.data import InMemoryImages
from deme.data.decode import Unreadable
from deme.data.encoded import EncodedImages
from deme.system import WorkFailed, progress

CHUNK = 1024  # images queued at once, so that a stop signal is obeyed soon
NAMED = 3  # of the images that cannot be decoded, in the error message

T = TypeVar("T")


class DecodedImages(InMemoryImages):
    """`EncodedImages` as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: EncodedImages) -> None:
        self.images = images
        self._decoded: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """All images, decoded at first use. Raises WorkFailed with the number of damaged ones."""
        if self._decoded is None:
            self._decoded = self._decode()
        return self._decoded

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if self._decoded is None and len(indices) == 1:  # the shape is asked for
            return self.images.__getitems__(indices)
        return super().__getitems__(indices)

    def content_hash(self) -> str:
        return self.images.content_hash()

    def _decode(self) -> Tensor:
        how, count = self.images.preprocessing, len(self)
        pixels = torch.empty(count, how.channels, how.size, how.size, dtype=torch.uint8)

        def put(index: int) -> Unreadable | None:
            try:
                pixels[index] = self.images.read(index)
            except Unreadable as error:
                return error
            return None

        found = in_threads(put, range(count), "decoding images")
        if bad := [error for error in found if error is not None]:
            raise unreadable(bad, count)
        return pixels


def unreadable(bad: list[Unreadable], count: int) -> WorkFailed:
    """Return one error that stands for all of `bad`."""
    if len(bad) == 1:
        return bad[0]
    more = ", ..." if len(bad) > NAMED else ""
    return WorkFailed(
        f"{len(bad):,} of {count:,} images cannot be read: "
        f"{', '.join(error.name for error in bad[:NAMED])}{more}\n"
        "move them away, or type: data.corrupt=skip"
    )


def in_threads(work: Callable[[int], T], indices: Sequence[int], name: str) -> list[T]:
    """Return `work(index)` for every index, in order, and show the progress of the step `name`."""
    done: list[T] = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress(name, len(indices), "images") as bar,
    ):
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            done += pool.map(work, chunk)
            bar.advance(len(chunk))
    return done
