"""Searches for merge weights: a strategy asks for scores (lower is better); `Evaluations` makes, counts and stores them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deme.merging.search.evaluations import Evaluations


class Objective(Protocol):
    """What is minimised, as a function of merge weights (a flat vector). Deterministic: the same weights, the same score."""

    num_forward_passes_per_image: int
    """Passes of the network that an image of `value` takes."""

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the score on this fraction of the images."""

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the score on all images and its derivative by each weight. Raises BadConfig where there is none."""

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images `value` looks at."""


class Search(Protocol):
    """A strategy. All it does follows from its settings, the start and the scores, so a killed search can be replayed."""

    def run(self, evaluations: "Evaluations", start: Sequence[float]) -> None:
        """Ask `evaluations` for scores until done; the best one is kept there."""

    def count(self, num_weights: int) -> int | None:
        """Return how many vectors are asked for at most; None: not known."""
