"""Searches for merge weights: each proposes weight vectors; the caller scores them (lower is better) and stores the scores."""

from collections.abc import Iterator, Sequence
from typing import Protocol


class Search(Protocol):
    """Yields weight vectors for `num_experts` in a fixed order, so that a killed search goes on behind its stored scores."""

    def count(self, num_experts: int) -> int: ...

    def propose(self, num_experts: int) -> Iterator[Sequence[float]]: ...
