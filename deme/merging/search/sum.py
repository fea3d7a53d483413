"""Search over the sum of the merge weights alone, their proportions being given.

One number says how far the merge goes along one direction. Where the consistency loss stopped the
experts half-way, that is up to twice as far as their mean (docs/method.md#merge-weight-sum).
"""

from collections.abc import Sequence

from deme.merging.search import Search
from deme.merging.search.box import DECIMALS
from deme.merging.search.evaluations import Evaluations
from deme.merging.search.grid import GridSearch
from deme.system import BadConfig


class SumSearch(Search):
    """Evaluate s times the proportions for s = low, low + step, ..., high.

    `proportions`: "uniform", or a number per expert from low to high noise; they are divided by
    their sum. Blocks or tensors with weights of their own have the same.
    """

    varies_sum_alone = True

    def __init__(
        self,
        proportions: str | Sequence[float] = "uniform",
        low: float = 0.0,
        high: float = 3.0,
        step: float = 0.25,
    ) -> None:
        if proportions != "uniform" and (isinstance(proportions, str) or not proportions):
            raise ValueError(f"proportions must be uniform or a list of numbers, got {proportions}")
        self.proportions = [] if isinstance(proportions, str) else list(proportions)
        if self.proportions and not abs(sum(self.proportions)) > 0:
            raise ValueError(f"proportions must not sum to 0, got {self.proportions}")
        self.sums = GridSearch(low, high, step).values

    def count(self, num_weights: int) -> int:  # noqa: ARG002
        """Return how many sums are evaluated."""
        return len(self.sums)

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Score every sum; `start` has the weight 1/N for all N experts, of each block."""
        blocks = max(1, round(sum(start)))
        num_experts = len(start) // blocks
        shares = self.proportions or [1.0] * num_experts
        if len(shares) != num_experts:
            raise BadConfig(
                f"search.proportions needs {num_experts} numbers, one per expert from low to high "
                f"noise; got {len(shares)}: {shares}"
            )
        for value in self.sums:
            weights = [round(value * share / sum(shares), DECIMALS) for share in shares]
            evaluations(weights * blocks)
