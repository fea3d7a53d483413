"""How well images show what texts say: the interface of a score for pairs of an image and a text."""

from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor


class TextScore(Protocol):
    """Map uint8 images [B, C, H, W] to float32 features [B, dimension] on the CPU, and features and texts to scores.

    `name` says everything that changes a score, `suffix` is its short form, `weights` the sha256 of its weights. `score_name`
    is what the metric is called: it says whose it is, never a bare CLIP score where it is none.
    """

    name: str
    weights: str
    suffix: str
    dimension: int
    score_name: str

    def to(self, device: str) -> Self: ...

    def __call__(self, pixels: Tensor) -> Tensor: ...

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the score of each image [B], of its features [B, dimension] and its text; float64, higher is better."""
        ...

    def mean(self, scores: Tensor) -> float:
        """Return what the metric makes of the scores of all images: their mean, cut off where its definition says so."""
        ...

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the network reads; of those the end is not seen.

        Raises BadConfig for texts that it cannot score at all: asked before images are drawn.
        """
        ...
