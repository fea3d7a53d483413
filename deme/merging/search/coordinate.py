"""Coordinate search: one merge weight after the other, on ever finer values (METHOD 3.1).

Cyclic coordinate descent (Wright 2015, "Coordinate descent algorithms", arXiv 1502.04759): N * points evaluations a sweep where
a grid takes points^N; for smooth functions with one valley.
"""

from collections.abc import Sequence

from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations


class CoordinateSearch:
    """Sweeps over the coordinates, each of which moves to the best of `points` equally spaced values and its present one.

    The first sweep's values span [low, high]; those of a later one reach the former one's spacing to both sides of the present
    value, inside the box. The search ends after `sweeps`: where a sweep changes nothing, a finer one may.
    """

    def __init__(
        self, low: float = -0.2, high: float = 2.0, points: int = 11, sweeps: int = 3
    ) -> None:
        self.box = Box(low, high)
        check_at_least("points", points, 4)  # with three, a sweep has the spacing of the former one
        check_at_least("sweeps", sweeps, 1)
        self.points, self.sweeps = points, sweeps

    def count(self, num_weights: int) -> int:
        """Return one for the start and all points of all sweeps."""
        return 1 + self.sweeps * num_weights * self.points

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Sweep from `start`, or from the nearest vector in the box."""
        present = self.box.nearest(start)
        score = evaluations(present)
        reach = self.box.high - self.box.low  # the whole box, from anywhere in it
        for sweep in range(self.sweeps):
            for index in range(len(present)):
                for value in self._values(present[index], reach):
                    candidate = self.box.nearest([*present[:index], value, *present[index + 1 :]])
                    found = evaluations(candidate)
                    if found < score:
                        present, score = candidate, found
            reach *= (1 if sweep == 0 else 2) / (self.points - 1)  # the spacing of this sweep

    def _values(self, centre: float, reach: float) -> list[float]:
        low, high = max(self.box.low, centre - reach), min(self.box.high, centre + reach)
        return [low + (high - low) * i / (self.points - 1) for i in range(self.points)]
