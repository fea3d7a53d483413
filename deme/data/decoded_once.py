"""Encoded images of a set that fits in memory: decoded on first use, all at once, by a few threads."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from deme.data import InMemoryImages
from deme.data.decode import Unreadable
from deme.data.encoded import EncodedImages
from deme.system.errors import WorkFailed

SAY_AFTER = 5.0  # seconds, and between lines
CHUNK = 1024  # images handed out at once: no queue as long as the data set, and a stop is heeded
NAMED = 3  # of the images that cannot be decoded

Say = Callable[[str], None]
T = TypeVar("T")


class DecodedOnce(InMemoryImages):
    """What `EncodedImages` are, as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: EncodedImages, say: Say) -> None:
        self.images, self.say = images, say
        self._decoded: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """All images, decoded when they are first asked for. Raises WorkFailed that counts those that cannot be."""
        if self._decoded is None:
            self._decoded = self._decode()
        return self._decoded

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if self._decoded is None and len(indices) == 1:  # somebody asks for the shape
            return self.images.__getitems__(indices)
        return super().__getitems__(indices)

    def content_hash(self) -> str:
        return self.images.content_hash()

    def _decode(self) -> Tensor:
        rules, count = self.images.rules, len(self)
        pixels = torch.empty(count, rules.channels, rules.size, rules.size, dtype=torch.uint8)

        def put(index: int) -> Unreadable | None:
            try:
                pixels[index] = self.images.read(index)
            except Unreadable as error:
                return error
            return None

        found = in_threads(put, range(count), f"decoding {count:,} images", self.say)
        if bad := [error for error in found if error is not None]:
            raise unreadable(bad, count)
        return pixels


def unreadable(bad: list[Unreadable], count: int) -> WorkFailed:
    """Return the error that stands for all of them."""
    if len(bad) == 1:
        return bad[0]
    more = ", ..." if len(bad) > NAMED else ""
    return WorkFailed(
        f"{len(bad):,} of {count:,} images cannot be read: {', '.join(e.name for e in bad[:NAMED])}{more}\n"
        "move them away, or type: data.corrupt=skip"
    )


def in_threads(work: Callable[[int], T], indices: Sequence[int], what: str, say: Say) -> list[T]:
    """Return `work(index)` for every index, in order; say how far it is when it takes long. Pillow lets threads run."""
    began = said = time.monotonic()
    done: list[T] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), CHUNK):
            done += pool.map(work, indices[start : start + CHUNK])
            if (now := time.monotonic()) - said > SAY_AFTER and len(done) < len(indices):
                said = now
                left = (now - began) / len(done) * (len(indices) - len(done))
                say(f"  {what}: {len(done):,}/{len(indices):,}, {left:.0f} s left")
    return done
