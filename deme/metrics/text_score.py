"""The interface of metrics for pairs of an image and a text, and the cosine behind CLIP scores."""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from deme.metrics.features import CHUNK


class TextScore(Protocol):
    """Map uint8 images [B, C, H, W] to features [B, dimension], and features and texts to scores.

    Features are float32 on the CPU. `name` describes everything that changes a score, `suffix` is
    its short form, `weights` the sha256 of the network's weights. `score_name` is the name of the
    metric: it names the network where that is not the CLIP of the original definition.
    """

    name: str
    weights: str
    suffix: str
    dimension: int
    score_name: str

    def to(self, device: str) -> Self: ...

    def __call__(self, pixels: Tensor) -> Tensor: ...

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Return a score per image, float64 [B], of features [B, dimension] and B texts.

        Higher is better. Raises ValueError unless there are as many texts as images.
        """
        ...

    def mean(self, scores: Tensor) -> float:
        """Return the metric from the scores of all images: their mean, clamped if so defined."""
        ...

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the network's context, which truncates them.

        Raises BadConfig for texts that cannot be scored; called before images are generated.
        """
        ...


def cosine_scores(
    images: Tensor, texts: Sequence[str], embed: Callable[[list[str]], Tensor]
) -> Tensor:
    """Return 100 cos(image, text), float64 [B], on the CPU; Hessel et al. (2021) use 2.5 cos.

    `images`: features [B, dimension] of any norm; `embed` maps at most CHUNK texts to theirs.
    Raises ValueError unless there are as many texts as images.
    """
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts: each image needs one text")
    chunks = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    embedded = [embed(chunk).cpu().double() for chunk in chunks] or [images.double()]
    return 100 * cosine_similarity(images.cpu().double(), torch.cat(embedded))
