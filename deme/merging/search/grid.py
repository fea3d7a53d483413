"""Grid search over merge weights, the paper's strategy (section 3.3)."""

import itertools
import math
from collections.abc import Iterator, Sequence


class GridSearch:
    """All vectors with entries low, low + step, ..., high."""

    def __init__(self, low: float = 0.0, high: float = 1.0, step: float = 0.25) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and step > 0 and high >= low):
            raise ValueError(f"a grid needs low <= high and step > 0, got low={low} high={high} step={step}")
        self.values = [low + i * step for i in range(math.floor((high - low) / step + 1e-9) + 1)]

    def count(self, num_experts: int) -> int:
        """Return how many vectors the grid has."""
        return len(self.values) ** num_experts

    def propose(self, num_experts: int) -> Iterator[Sequence[float]]:
        """Yield the vectors in lexicographic order."""
        return itertools.product(self.values, repeat=num_experts)
