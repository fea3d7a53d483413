"""The interface of metrics for pairs of an image and a text, and the cosine behind CLIP scores."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from deme.metrics.features import CHUNK, ImageNetwork


class TextScore(ImageNetwork, Protocol):
    """A network whose features and texts give scores.

    `score_name` is the name of the metric: it names the network where that is not the CLIP of the
    original definition.
    """

    score_name: str

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Return a score per image, float64 [B], of features [B, dimension] and B texts.

        Higher is better. Raises ValueError unless there are as many texts as images.
        """

    def mean(self, scores: Tensor) -> float:
        """Return the metric from the scores of all images: their mean, clamped if so defined."""
        return float(scores.double().mean())

    def truncated(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the network's context, which truncates them.

        Raises BadConfig for texts that cannot be scored; called before images are generated.
        """


class CosineScore(TextScore):
    """Base of scores 100 cos(image, text), of embeddings; Hessel et al. (2021) use 2.5 cos."""

    @abstractmethod
    def embed(self, texts: list[str]) -> Tensor:
        """Return the embeddings [B, dimension], of any norm, of at most CHUNK texts."""

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the score of every image, float64 [B], on the CPU."""
        if len(features) != len(texts):
            raise ValueError(
                f"{len(features)} images and {len(texts)} texts: each image needs one text"
            )
        images = features.cpu().double()
        chunks = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        embedded = [self.embed(chunk).cpu().double() for chunk in chunks] or [images]
        return 100 * cosine_similarity(images, torch.cat(embedded))
