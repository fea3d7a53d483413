"""Encoded images decoded once, by several threads, and kept in memory."""

from functools import cached_property

import torch
from torch import Tensor

from deme.data import InMemoryImages
from deme.data.encoded import EncodedImages
from deme.data.inspection import unreadable_among
from deme.system import WorkFailed

NAMED = 3  # of the images that cannot be decoded, in the error message


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
