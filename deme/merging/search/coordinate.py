"""Coordinate search: optimize one merge weight at a time, with ever smaller steps.

Cyclic coordinate descent (Wright 2015, "Coordinate descent algorithms", arXiv 1502.04759) takes N *
points evaluations per sweep where a grid takes points^N; it suits smooth functions with a single
minimum.
"""

from collections.abc import Sequence

from deme.merging.search import Search
from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations


class CoordinateSearch(Search):
    """Sweep over the weights: each moves to the best of `points` values and its present one.

    The equally spaced values of the first sweep span [low, high]; those of a later sweep span the
    spacing of the sweep before to both sides of the present value, inside the box. The search ends
    after `sweeps`: a finer sweep may improve where a coarser one did not.
    """

    def __init__(
        self, low: float = -0.2, high: float = 2.0, points: int = 11, sweeps: int = 3
    ) -> None:
        self.box = Box(low, high)
        check_at_least("points", points, 4)  # with three, the spacing would not shrink
        check_at_least("sweeps", sweeps, 1)
        self.points, self.sweeps = points, sweeps

    def count(self, num_weights: int) -> int:
        """Return one for the start plus all points of all sweeps."""
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
