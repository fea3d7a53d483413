"""Searches for merge weights: each proposes weight vectors; the caller scores them (lower is better) and stores the scores."""

from collections.abc import Iterator, Sequence
from typing import Protocol


class Search(Protocol):
    """Yields weight vectors for `num_experts`; receives each one's score through `send`. The order is deterministic."""

    def propose(self, num_experts: int) -> Iterator[Sequence[float]]: ...
