"""Images that are stored encoded, wherever that is, and decoded when they are needed."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from PIL import ImageColor
from torch import Tensor

from deme.data.decode import BACKGROUND, Preprocessing, is_transparent, open_image
from deme.system import read_cached, sha256_text, tracked, write_json


class ImageSource(Protocol):
    """Encoded images in a fixed order: files, entries of a database, rows of a table."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what a message calls an image."""

    def read(self, index: int) -> bytes:
        """Return an image as it is stored. Works in forked processes, too."""

    def listing(self) -> str:
        """Return names, sizes and times of change: a text that changes when an image does."""


class LazyImages(ABC):
    """The images `indices` of a source, each read on demand; their hash is kept in `cache`.

    `description` is the preprocessing in words: part of the content hash, as is the `background` of
    images that have transparent pixels.
    """

    description: str
    background = BACKGROUND

    def __init__(
        self, source: ImageSource, indices: Sequence[int], cache: Path | None = None
    ) -> None:
        self.source, self.indices, self.cache = source, list(indices), cache

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Return one image."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.stack([self.read(index) for index in indices])

    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        if self.cache is None:
            return self._hashed()
        listed = sha256_text(
            "\n".join(
                [self.description, self.background, self.source.listing(), repr(self.indices)]
            )
        )
        file = self.cache / "contents" / f"{listed[:32]}.json"
        found = (read_cached(file, dict[str, str]) or {}).get("sha256")
        if found is None:
            found = self._hashed()
            write_json(file, {"sha256": found})
        return found

    def _hashed(self) -> str:
        indices = tracked(self.indices, "hashing images", len(self), "images")
        hashes = [self._hash_of(self.source.read(index)) for index in indices]
        return sha256_text("\n".join([self.description, *hashes]))

    def _hash_of(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        on = f" on {ImageColor.getrgb(self.background)}" if is_transparent(data) else ""
        return digest + on


class EncodedImages(LazyImages):
    """Images after a fixed preprocessing: uint8 [channels, size, size]."""

    def __init__(
        self,
        source: ImageSource,
        indices: Sequence[int],
        preprocessing: Preprocessing,
        cache: Path | None = None,
    ) -> None:
        super().__init__(source, indices, cache)
        self.preprocessing, self.description = preprocessing, preprocessing.description
        self.background = preprocessing.background

    def read(self, index: int, position: float | None = None) -> Tensor:
        """Return one image, cropped at `position` or in the center.

        Raises Unreadable.
        """
        place, how = self.indices[index], self.preprocessing
        data, name = self.source.read(place), self.source.name(place)
        image = open_image(data, name, how.channels, how.background)
        return how.apply(image, position)


class RandomlyCropped(EncodedImages):
    """Encoded images that training crops at random positions."""

    def cropped(self, indices: list[int], positions: Sequence[float]) -> Tensor:
        """Return crops at `positions`, each in [0, 1) of the offsets along the longer side."""
        return torch.stack(
            [self.read(i, position) for i, position in zip(indices, positions, strict=True)]
        )
