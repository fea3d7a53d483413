"""Several sets of images as one."""

import bisect
from collections.abc import Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from deme.data import Images
from deme.system.files import sha256_text


class Joined:
    """The images of several sets of one shape, one set after the other."""

    def __init__(self, sets: Sequence[Images]) -> None:
        self.sets = list(sets)
        self.ends = list(accumulate(len(images) for images in self.sets))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitems__(self, indices: list[int]) -> Tensor:
        found: list[Tensor] = []
        for which, group in groupby(indices, lambda index: bisect.bisect_right(self.ends, index)):
            first = self.ends[which] - len(self.sets[which])
            found.append(self.sets[which].__getitems__([index - first for index in group]))
        return torch.cat(found)

    def content_hash(self) -> str:
        """Return a sha256 of the sets' hashes, in order."""
        return sha256_text("\n".join(images.content_hash() for images in self.sets))
