"""Encoded images decoded once, by several threads, and kept in memory."""

from functools import cached_property

import torch
from torch import Tensor

from deme.data import InMemoryImages
from deme.data.encoded import EncodedImages
from deme.data.inspection import unreadable_among


class DecodedImages(InMemoryImages):
    """`EncodedImages` as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: EncodedImages) -> None:
        self.images = images

    @cached_property
    def pixels(self) -> Tensor:
        """All images, decoded at first use. Raises Unreadable for one that has become damaged."""
        how, count = self.images.preprocessing, len(self)
        pixels = torch.empty(count, how.channels, *how.shape, dtype=torch.uint8)

        def put(index: int) -> None:
            pixels[index] = self.images.read(index)

        for error in unreadable_among(put, count, "decoding images").values():
            raise error
        return pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        if "pixels" not in vars(self) and len(indices) == 1:  # the shape is asked for
            return self.images.__getitems__(indices)
        return super().__getitems__(indices)

    def content_hash(self) -> str:
        return self.images.content_hash()
