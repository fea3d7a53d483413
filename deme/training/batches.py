"""Which images make up the batch of step k: a function of (seed, k).

So a resumed run reads the same images as an undisturbed one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deme.data import Croppable, EncodedDataset, Images, InMemoryImages
from deme.data.pixels import mirrored
from deme.diffusion import ShardedRandom, generator
from deme.system import DemeError

MAX_MIRRORED_BYTES = 2**28  # of a set in memory that is kept with its mirror images


class StepBatches:
    """Indices for micro-steps `first()` .. num_steps - 1, from seeded permutations of the data.

    Each process receives its rows `rank * batch_size : (rank + 1) * batch_size` of the global
    batch. With `mirror`, each image of a batch is mirrored left-right with probability 0.5. With a
    `window` of several micro-steps they begin with the first of the window of `first()`.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        num_steps: int,
        seed: int | str,
        first: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        mirror: bool = False,
        window: int = 1,
    ) -> None:
        self.num_images, self.batch_size, self.num_steps = num_images, batch_size, num_steps
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.mirror, self.window = mirror, window
        self.first = lambda: first() - first() % window
        self.num_over = lambda: first() % window  # steps of the first window that are over

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each micro-step's number and its indices [batch_size]."""
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self.first(), self.num_steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            parts, left = [], self.batch_size
            while left:
                needed, place = divmod(start + self.batch_size - left, self.num_images)
                if needed != epoch:
                    epoch = needed
                    order = torch.randperm(
                        self.num_images, generator=generator("epoch", self.seed, epoch)
                    )
                parts.append(order[place : place + left])
                left -= len(parts[-1])
            yield step, parts[0] if len(parts) == 1 else torch.cat(parts)

    def positions(self, step: int) -> list[float]:
        """Return the crop positions in [0, 1) of this process's images in micro-step `step`."""
        return self._rows("crop", step).uniform().tolist()

    def coins(self, step: int) -> Tensor:
        """Return which images of this process micro-step `step` mirrors, booleans [batch_size]."""
        return self._rows("mirror", step).coins(0.5)

    def _rows(self, what: str, step: int) -> ShardedRandom:
        start = self.rank * self.batch_size
        return ShardedRandom(
            generator(what, self.seed, step),
            self.world_size * self.batch_size,
            start,
            start + self.batch_size,
        )


class StepLoader:
    """A loader that continues at the trainer's step; Lightning accepts it for its (empty) state.

    Images in memory are moved to `device` once and picked there by index. All others are read by
    `num_workers` processes. Crops and mirror images follow from the step.
    """

    def __init__(
        self,
        images: Images | EncodedDataset,
        batches: StepBatches,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.batches = images, batches
        self.num_workers, self.device = num_workers, torch.device(device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        """Yield uint8 batches [B, C, H, W], or an encoded data set's tensors by name.

        With a window of several steps: the list of its batches for the first of its steps that is
        not over, then a list of one batch for each later step.

        Raises what reading an image raises, also where another process reads it.
        """
        if self.batches.window == 1:
            yield from self._each()
            return
        over, reading = self.batches.num_over(), self._each()
        while window := list(islice(reading, self.batches.window)):
            yield window
            yield from ([batch] for batch in window[over + 1 :])
            over = 0

    def _each(self) -> Iterator[Any]:
        """Yield the batch of every micro-step."""
        if isinstance(self.images, InMemoryImages):
            yield from self._picked()
        elif isinstance(self.images, EncodedDataset):
            yield from self._read()
        else:
            for step, batch in enumerate(self._read(), self.batches.first()):
                yield mirrored(batch, self.batches.coins(step)) if self.batches.mirror else batch

    @cached_property
    def _pixels(self) -> tuple[Tensor, int]:
        """Images on the device, and their number; a small set is followed by its mirror images."""
        assert isinstance(self.images, InMemoryImages)
        pixels = self.images.pixels.to(self.device)
        both = self.batches.mirror and pixels.nbytes <= MAX_MIRRORED_BYTES
        return (torch.cat([pixels, pixels.flip(3)]) if both else pixels), len(pixels)

    def _picked(self) -> Iterator[Tensor]:
        (pixels, count), mirror = self._pixels, self.batches.mirror
        both = len(pixels) > count  # picking a mirror image costs less than mirroring
        for step, rows in self.batches:
            wanted = rows + count * self.batches.coins(step) if both else rows
            batch = pixels.index_select(0, wanted.to(self.device, non_blocking=True))
            yield mirrored(batch, self.batches.coins(step)) if mirror and not both else batch

    def _read(self) -> Iterator[Any]:
        crops = isinstance(self.images, Croppable)
        flips = self.batches.mirror and isinstance(self.images, EncodedDataset)
        wanted = (
            (
                rows.tolist(),
                self.batches.positions(step) if crops else None,
                self.batches.coins(step).tolist() if flips else None,
            )
            for step, rows in self.batches
        )
        reader, num_workers = _Reader(self.images), self.num_workers
        for batch in DataLoader(reader, batch_size=None, sampler=wanted, num_workers=num_workers):
            if isinstance(batch, DemeError):
                raise batch
            yield batch

    def state_dict(self) -> dict[str, object]:
        """Return nothing: the position follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Do nothing: the position follows from the step."""


@dataclass(frozen=True)
class _Reader(Dataset[Any]):
    """Reads a batch, here or in another process.

    An error is returned, because torch would wrap a raised one in a traceback.
    """

    images: Any

    def __getitem__(
        self, wanted: tuple[list[int], list[float] | None, list[bool] | None]
    ) -> Tensor | DemeError:
        indices, positions, flips = wanted
        try:
            if positions is not None:
                return self.images.cropped(indices, positions)
            if flips is not None:
                return self.images.__getitems__(indices, flips)
            return self.images.__getitems__(indices)
        except DemeError as error:
            return error
