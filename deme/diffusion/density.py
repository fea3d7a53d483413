"""Densities of training timesteps, over the position u = (t + 1) / T in 0..1; u = 1 is all noise.

Timestep t has the probability of the interval from t / T to (t + 1) / T. A range has the density
restricted to it.
"""

import math
from typing import Protocol

import torch
from torch import Generator, Tensor

from deme.diffusion.ranges import TimestepRange

BISECTION_STEPS = 60  # for float64


class Density(Protocol):
    """A density of the position u, by its cumulative distribution function."""

    def cdf(self, u: Tensor) -> Tensor:
        """Return P(position <= u) in float64 for positions `u` [...] in 0..1."""
        ...


class Uniform:
    """The same probability for every timestep."""

    def cdf(self, u: Tensor) -> Tensor:
        """Return P(position <= u) [...]."""
        return u.double()


class LogitNormal:
    """logit(u) is normal (Esser et al. 2024, eq. 19).

    With a positive mean, high noise is drawn more often. diffusers' training scripts count u from
    the other end: their `logit_mean` is -`mean`.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"mean must be finite and std positive, got mean={mean}, std={std}")
        self.mean, self.std = mean, std

    def cdf(self, u: Tensor) -> Tensor:
        """Return P(position <= u) [...]."""
        z = torch.special.logit(u.double())
        return torch.special.ndtr((z - self.mean) / self.std)


class Mode:
    """u = 1 - r - scale (cos^2(pi r / 2) - 1 + r) of a uniform r (Esser et al. 2024, eq. 20).

    A positive scale prefers the middle, a negative one both ends. It is monotonic, as an
    inverse cumulative distribution function is, for -1 <= scale <= 2 / (pi - 2) = 1.75.
    """

    def __init__(self, scale: float = 1.29) -> None:
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale must lie in -1..1.75, got {scale}")
        self.scale = scale

    def cdf(self, u: Tensor) -> Tensor:
        """Return P(position <= u) [...]."""
        u = u.double()
        low, high = torch.zeros_like(u), torch.ones_like(u)
        for _ in range(BISECTION_STEPS):  # the position falls from 1 to 0 as r rises
            r = (low + high) / 2
            above = self._position(r) > u
            low, high = torch.where(above, r, low), torch.where(above, high, r)
        inside = 1 - (low + high) / 2
        return torch.where(u <= 0, 0.0, torch.where(u >= 1, 1.0, inside))

    def _position(self, r: Tensor) -> Tensor:
        return 1 - r - self.scale * ((math.pi * r / 2).cos().square() - 1 + r)


class TruncatedDensity:
    """Timesteps of a range, drawn by inverting the cumulative distribution function.

    `quantiles` [n] in 0..1 become timesteps [n]. Raises ValueError for a range without probability.
    """

    def __init__(self, density: Density, timestep_range: TimestepRange, num_timesteps: int) -> None:
        low, high = timestep_range.low, timestep_range.high
        edges = density.cdf(torch.arange(low, high + 1, dtype=torch.float64) / num_timesteps)
        mass = edges - edges[0]
        if not bool((mass.diff() >= 0).all()) or not float(mass[-1]) > 0:
            raise ValueError(
                f"{type(density).__name__} gives the timesteps in {timestep_range} no probability"
            )
        self.low, self.upper = low, mass[1:] / mass[-1]

    def __call__(self, quantiles: Tensor) -> Tensor:
        inside = torch.searchsorted(self.upper, quantiles.double(), right=True)
        return self.low + inside.clamp_max(len(self.upper) - 1)

    def draw(self, n: int, generator: Generator, antithetic: bool) -> Tensor:
        """Return `n` timesteps; antithetic ones come in pairs, of the quantiles q and 1 - q."""
        count = n // 2 + 1 if antithetic else n
        quantiles = torch.rand(count, generator=generator, dtype=torch.float64)
        if antithetic:
            quantiles = torch.cat([quantiles, 1 - quantiles])[:n]
        return self(quantiles)
