"""Samplers of training timesteps: a callable (n, generator) -> LongTensor [n]."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from deme.diffusion.density import Density, TruncatedDensity, Uniform
from deme.diffusion.ranges import TimestepRange

GRANULARITIES = ("sample", "batch")

TimestepSampler = Callable[[int, Generator], Tensor]  # (n, generator) -> n timesteps


class RangeSampler:
    """Timesteps of one range, uniform or of a density (None: uniform) restricted to the range.

    Antithetic ones come in pairs: t and low + high - 1 - t, or of the quantiles q and 1 - q.
    """

    def __init__(
        self,
        timestep_range: TimestepRange,
        num_timesteps: int,
        antithetic: bool = True,
        density: Density | None = None,
    ) -> None:
        if timestep_range.high > num_timesteps:
            raise ValueError(
                f"range {timestep_range} reaches beyond the last of {num_timesteps} timesteps"
            )
        self.range = timestep_range
        self.antithetic = antithetic
        self.density: TruncatedDensity | None = None
        if density is not None and not isinstance(density, Uniform):
            self.density = TruncatedDensity(density, timestep_range, num_timesteps)

    def __call__(self, n: int, generator: Generator) -> Tensor:
        low, high = self.range.low, self.range.high
        if self.density is not None:
            return self.density.draw(n, generator, self.antithetic)
        if not self.antithetic:
            return torch.randint(low, high, (n,), generator=generator)
        t = torch.randint(low, high, (n // 2 + 1,), generator=generator)
        return torch.cat([t, low + high - 1 - t])[:n]


class ProbabilisticSampler:
    """With probability p draw t from all of [0, T), else from the expert's own range (paper eq. 6).

    The choice is made per sample (per antithetic pair, mirrored within the chosen interval) or,
    as in the authors' code, once per batch. P(t in range) = (1 - p) + p |range| / T for uniform
    timesteps (docs/method.md#probabilistic-sampling).
    """

    def __init__(
        self,
        timestep_range: TimestepRange,
        num_timesteps: int,
        probability: float = 0.3,
        granularity: str = "sample",
        antithetic: bool = True,
        density: Density | None = None,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1] (0.3 means 30%), got {probability}")
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"granularity must be one of {', '.join(GRANULARITIES)}, got {granularity!r}"
            )
        everywhere = TimestepRange(0, num_timesteps)
        self.inside = RangeSampler(timestep_range, num_timesteps, antithetic, density)
        self.everywhere = RangeSampler(everywhere, num_timesteps, antithetic, density)
        self.probability = probability
        self.granularity = granularity
        self.antithetic = antithetic

    def __call__(self, n: int, generator: Generator) -> Tensor:
        if self.granularity == "batch":
            coin = bool(torch.rand((), generator=generator) < self.probability)
            return (self.everywhere if coin else self.inside)(n, generator)
        count = n // 2 + 1 if self.antithetic else n
        coins = torch.rand(count, generator=generator) < self.probability
        if self.antithetic:  # the samplers below lay out drawn values first, then their mirrors
            coins = torch.cat([coins, coins])[:n]
        return torch.where(coins, self.everywhere(n, generator), self.inside(n, generator))


class StratifiedSampler:
    """About n / k timesteps of each of k ranges in turn, so that every part of a batch has all.

    The remainder of n / k goes to consecutive ranges, one each, beginning at a random one. Every
    *range* has the same mass, so t is uniform over [0, T) only for equal ranges
    (docs/method.md#ant).
    """

    def __init__(
        self,
        timestep_range: TimestepRange,
        ranges: Sequence[TimestepRange],
        antithetic: bool = True,
        density: Density | None = None,
    ) -> None:
        num_timesteps = ranges[-1].high
        if timestep_range != TimestepRange(0, num_timesteps):
            raise ValueError(
                f"stratified timesteps come from all of [0, {num_timesteps}), "
                f"not from {timestep_range}"
            )
        self.inside = [RangeSampler(item, num_timesteps, antithetic, density) for item in ranges]

    def __call__(self, n: int, generator: Generator) -> Tensor:
        k = len(self.inside)
        first = int(torch.randint(k, (), generator=generator))
        counts = [n // k + ((j - first) % k < n % k) for j in range(k)]
        t = torch.cat(
            [draw(count, generator) for draw, count in zip(self.inside, counts, strict=True)]
        )
        turn = torch.cat([torch.arange(count) for count in counts])
        return t[turn.argsort(stable=True)]
