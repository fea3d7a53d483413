"""Images that are stored encoded, wherever that is, decoded as they are needed."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from deme.data.decode import Rules, opened
from deme.system.files import read_json, sha256_text, write_json


class Source(Protocol):
    """Encoded images in a fixed order: files of a folder, entries of a database, rows of a data set."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what a message calls an image."""
        ...

    def read(self, index: int) -> bytes:
        """Return an image as it is stored. Works in any process that this one forks."""
        ...

    def listing(self) -> str:
        """Return a text that changes when images change; found without reading them (names, sizes, times)."""
        ...


class ReadAsNeeded(ABC):
    """The images `indices` of a source, each read when it is asked for; their hash is remembered in `cache`."""

    def __init__(self, source: Source, indices: Sequence[int], cache: Path | None = None) -> None:
        self.source, self.indices, self.cache = source, list(indices), cache

    @property
    @abstractmethod
    def how(self) -> str:
        """What happens to an image when it is read."""

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
        listed = sha256_text("\n".join([self.how, self.source.listing(), repr(self.indices)]))
        file = self.cache / "contents" / f"{listed[:32]}.json"
        if not file.exists():
            write_json(file, {"sha256": self._hashed()})
        return str(read_json(file)["sha256"])

    def _hashed(self) -> str:
        each = (hashlib.sha256(self.source.read(index)).hexdigest() for index in self.indices)
        return sha256_text("\n".join([self.how, *each]))


class EncodedImages(ReadAsNeeded):
    """Images decoded by rules: uint8 [channels, size, size]."""

    def __init__(
        self, source: Source, indices: Sequence[int], rules: Rules, cache: Path | None = None
    ) -> None:
        super().__init__(source, indices, cache)
        self.rules = rules

    @property
    def how(self) -> str:
        return self.rules.how

    def read(self, index: int, position: float | None = None) -> Tensor:
        """Return one image; cut at `position`, or in the centre. Raises Unreadable."""
        return self.rules.apply(self.open(self.indices[index]), position)

    def open(self, index: int) -> Image.Image:
        """Return image `index` of the source, decoded to the rules' number of channels. Raises Unreadable, BadConfig."""
        return opened(self.source.read(index), self.source.name(index), self.rules.channels)


class RandomlyCropped(EncodedImages):
    """The same, cut at random in training."""

    def cropped(self, indices: list[int], positions: Sequence[float]) -> Tensor:
        """Return images cut at `positions` in [0, 1) along their longer side."""
        return torch.stack(
            [self.read(i, position) for i, position in zip(indices, positions, strict=True)]
        )
