"""Images with the condition that a model of pixels makes of their captions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deme.data import Captioned
from deme.data.pixels import to_float
from deme.diffusion import Condition, ShardedRandom, moved

PIXELS = "pixels"


class ConditionedPixels:
    """Captioned images as a conditional model of pixels takes them (`EncodedDataset`).

    `condition` makes the condition of texts. Training replaces a share `caption_dropout` of the
    captions by the empty one.
    """

    def __init__(
        self,
        images: Captioned,
        condition: Callable[[Sequence[str]], Condition],
        caption_dropout: float = 0.0,
    ) -> None:
        self.images, self.caption_dropout = images, caption_dropout
        self._all = moved(condition(images.captions(list(range(len(images))))), "cpu")
        self._empty = moved(condition([""]), "cpu") if caption_dropout else {}

    def __len__(self) -> int:
        return len(self.images)

    def content_hash(self) -> str:
        return self.images.content_hash()

    def captions(self, indices: list[int]) -> list[str]:
        """Return the captions of images, from which a preview of training is made."""
        return self.images.captions(indices)

    def __getitems__(
        self, indices: list[int], flips: Sequence[bool] | None = None
    ) -> dict[str, Tensor]:
        """Return the pixels of images, uint8, and their conditions; where `flips`, mirrored."""
        pixels = self.images.__getitems__(indices)
        if flips is not None:
            mirror = torch.tensor(flips)[:, None, None, None]
            pixels = torch.where(mirror, pixels.flip(3), pixels)
        return {PIXELS: pixels, **{name: rows[indices] for name, rows in self._all.items()}}

    def training_sample(
        self, batch: dict[str, Tensor], draws: ShardedRandom
    ) -> tuple[Tensor, Condition]:
        """Return the images in -1..1, and their conditions after caption dropout."""
        given = {name: value for name, value in batch.items() if name != PIXELS}
        if self.caption_dropout:
            coins = draws.coins(self.caption_dropout)
            for name, value in given.items():
                dropped = coins.to(value.device).view(-1, *[1] * (value.ndim - 1))
                given[name] = torch.where(dropped, self._empty[name].to(value.device), value)
        return to_float(batch[PIXELS]), given

    def eval_sample(self, indices: list[int]) -> tuple[Tensor, Condition]:
        """Return the images in -1..1 and their conditions."""
        batch = self.__getitems__(indices)
        return to_float(batch.pop(PIXELS)), batch
