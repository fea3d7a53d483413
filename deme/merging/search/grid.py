"""Grid search over merge weights, the strategy of the paper (section 3.3)."""

import itertools
import math
from collections.abc import Sequence

from deme.merging.search import Search
from deme.merging.search.evaluations import Evaluations

MAX_VALUES = 10_000  # per weight


class GridSearch(Search):
    """Evaluate all vectors with entries low, low + step, ..., high, in lexicographic order."""

    def __init__(self, low: float = 0.0, high: float = 1.0, step: float = 0.25) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and 0 < step < math.inf and high >= low):
            raise ValueError(
                f"a grid needs low <= high and step > 0, got low={low} high={high} step={step}"
            )
        if (high - low) / step >= MAX_VALUES:
            raise ValueError(
                f"a grid has at most {MAX_VALUES:,} values per weight, got step={step} from {low} "
                f"to {high}"
            )
        self.values = [
            min(low + i * step, high) for i in range(math.floor((high - low) / step + 1e-9) + 1)
        ]

    def count(self, num_weights: int) -> int:
        """Return how many vectors the grid has."""
        return len(self.values) ** num_weights

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Score every vector of the grid."""
        for weights in itertools.product(self.values, repeat=len(start)):
            evaluations(weights)
