"""The box that a search keeps its merge weights in."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Of proposed weights, so that another machine, whose linear algebra rounds differently, proposes
# the
# same ones.
DECIMALS = 10


@dataclass(frozen=True)
class Box:
    """All vectors with entries in [low, high]. Raises ValueError unless low < high are finite.

    The default of the strategies, [-0.2, 2], allows extrapolation beyond the experts
    (docs/method.md#merge-weight-search).
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"a search needs finite low < high, got low={self.low} high={self.high}"
            )

    def nearest(self, vector: Iterable[float]) -> list[float]:
        """Return the nearest vector in the box, rounded to `DECIMALS`."""
        return [min(max(round(float(x), DECIMALS), self.low), self.high) for x in vector]


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raise ValueError unless a setting is a whole number of at least `minimum`."""
    if not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value}")
