"""Searches for merge weights.

A strategy proposes vectors; `Evaluations` scores them (lower is better), counts and stores them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deme.merging.search.evaluations import Evaluations


class Objective(Protocol):
    """A deterministic function of merge weights (a flat vector) that is minimized."""

    num_forward_passes_per_image: int  # of the network, by `value`

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the score on this fraction of the images."""

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the score on all images and its gradient. Raises BadConfig if it has none."""

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images `value` uses."""


class Search(Protocol):
    """A strategy: a function of its settings, the start and the scores, so it can be replayed."""

    needs_gradients: bool = False  # with each score, which costs a backward pass
    varies_sum_alone: bool = False  # of the weights; their proportions are given

    def run(self, evaluations: "Evaluations", start: Sequence[float]) -> None:
        """Evaluate vectors until done; `evaluations` keeps the best one."""

    def count(self, num_weights: int) -> int | None:
        """Return the largest number of vectors that are evaluated; None if it is not known."""
