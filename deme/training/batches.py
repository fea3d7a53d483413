"""Which images make up the batch of step k: a function of (seed, k), so that a resumed run reads the same ones."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from deme.data import Images
from deme.seeds import generator


class StepBatches(Sampler[list[int]]):
    """Index lists for micro-steps `first()` .. num_steps - 1: seeded permutations of the data set, one after another.

    Each process receives its rows `rank * batch_size : (rank + 1) * batch_size` of the global batch.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        num_steps: int,
        seed: int,
        first: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images, self.batch_size, self.num_steps = num_images, batch_size, num_steps
        self.seed, self.first, self.rank, self.world_size = seed, first, rank, world_size

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self.first(), self.num_steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(start, start + self.batch_size):
                if position // self.num_images != epoch:
                    epoch = position // self.num_images
                    order = torch.randperm(self.num_images, generator=generator("epoch", self.seed, epoch))
                batch.append(int(order[position % self.num_images]))
            yield batch


class StepLoader(DataLoader[Any]):
    """A loader that continues at the trainer's step by itself; it says so to Lightning by having a (trivial) state."""

    def __init__(self, images: Images, batches: StepBatches, num_workers: int = 0) -> None:
        super().__init__(images, batch_sampler=batches, num_workers=num_workers, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember: the position follows from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
