"""Random numbers as functions of their purpose, never of earlier draws (docs/method.md#randomness).

The draws of training step k follow from (seed, k) and are made for the global batch; each process
keeps its rows. The noise of image i follows from (seed, i). So a resumed run repeats itself, and
one process or two see the same noise.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def generator(*keys: int | str) -> Generator:
    """Return a CPU generator that is a function of `keys` alone."""
    return Generator().manual_seed(_seed(keys))


def _seed(keys: Sequence[int | str]) -> int:
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def seeded(device: torch.device, *keys: int | str) -> Iterator[None]:
    """Make torch's own draws (dropout masks) a function of `keys` in the block; restore after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(keys))
        yield


@dataclass(frozen=True)
class ShardedRandom:
    """Draws for a global batch of `total` rows, of which this process holds `start:stop`."""

    generator: Generator
    total: int
    start: int
    stop: int

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal noise [stop - start, *shape]."""
        return torch.randn((self.total, *shape), generator=self.generator)[self.start : self.stop]

    def timesteps(self, sampler: Callable[[int, Generator], Tensor]) -> Tensor:
        """Return this process's rows of the sampler's timesteps, [stop - start]."""
        return self.own(self.all_timesteps(sampler))

    def all_timesteps(self, sampler: Callable[[int, Generator], Tensor]) -> Tensor:
        """Return the sampler's timesteps of the global batch, [total]."""
        return sampler(self.total, self.generator)

    def own(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a tensor of the global batch."""
        return rows[self.start : self.stop]

    def uniform(self) -> Tensor:
        """Return numbers drawn uniformly from [0, 1), [stop - start]."""
        return torch.rand(self.total, generator=self.generator)[self.start : self.stop]

    def coins(self, probability: float) -> Tensor:
        """Return independent booleans, true with `probability`, [stop - start]."""
        return self.uniform() < probability


def image_generator(seed: int, index: int) -> Generator:
    """Return the generator of image `index`, for its initial noise and its sampling steps."""
    return generator("image", seed, index)
