"""Random numbers as functions of what they are for, never of what was drawn before (DESIGN 9).

The draws of training step k follow from (seed, k) and are made for the global batch; each process keeps its rows. The
noise of image i follows from (seed, i). So a resumed run replays, and one process or two see the same noise.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def generator(*keys: int | str) -> Generator:
    """Return a CPU generator that is a function of `keys` alone."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Rows:
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
        return sampler(self.total, self.generator)[self.start : self.stop]

    def coins(self, probability: float) -> Tensor:
        """Return independent booleans, true with `probability`, [stop - start]."""
        return (torch.rand(self.total, generator=self.generator) < probability)[self.start : self.stop]


def image_generator(seed: int, index: int) -> Generator:
    """Return the generator of image `index`: its initial noise, then the noise of its sampling steps."""
    return generator("image", seed, index)
