"""Half-open ranges of timesteps and partitions of [0, T) into them (paper section 3, Figure 3)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimestepRange:
    """The timesteps low <= t < high."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(
                f"a timestep range needs 0 <= low < high, got [{self.low}, {self.high})"
            )

    def __contains__(self, t: int) -> bool:
        return self.low <= t < self.high

    def __len__(self) -> int:
        return self.high - self.low

    def __str__(self) -> str:
        return f"[{self.low}, {self.high})"


def check_partition(ranges: Sequence[TimestepRange], num_timesteps: int) -> None:
    """Raise ValueError unless `ranges`, in order, cover [0, num_timesteps) once."""
    expected = 0
    for item in ranges:
        if item.low != expected:
            what = "overlap" if item.low < expected else "leave a hole"
            raise ValueError(
                f"ranges {', '.join(map(str, ranges))} {what} at t = {min(item.low, expected)}; "
                f"they must cover [0, {num_timesteps}) exactly once, in order"
            )
        expected = item.high
    if expected != num_timesteps:
        raise ValueError(
            f"ranges {', '.join(map(str, ranges)) or '(none)'} end at {expected}; "
            f"they must cover [0, {num_timesteps}) exactly once"
        )


def from_boundaries(boundaries: Sequence[int], num_timesteps: int) -> list[TimestepRange]:
    """Return the partition with N + 1 boundaries, the first 0 and the last `num_timesteps`."""
    if not all(isinstance(item, int) for item in boundaries):
        raise ValueError(f"boundaries must be whole numbers, got {list(boundaries)}")
    ranges = [TimestepRange(low, high) for low, high in itertools.pairwise(boundaries)]
    check_partition(ranges, num_timesteps)
    return ranges


def uniform(num_ranges: int, num_timesteps: int) -> list[TimestepRange]:
    """Return `num_ranges` ranges with boundaries round(i T / N); equal ones where N divides T."""
    if not 1 <= num_ranges <= num_timesteps:
        raise ValueError(
            f"num_ranges must lie in 1..{num_timesteps} (the number of timesteps), got {num_ranges}"
        )
    return from_boundaries(
        [round(i * num_timesteps / num_ranges) for i in range(num_ranges + 1)], num_timesteps
    )
