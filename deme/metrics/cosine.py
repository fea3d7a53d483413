"""100 times the cosine between images and texts: what every CLIP score is the mean of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

CHUNK = 50  # texts in the network at once


def hundred_cosines(
    images: Tensor, texts: Sequence[str], embed: Callable[[list[str]], Tensor]
) -> Tensor:
    """Return 100 cos(image, text), float64 [B], on the CPU; 2.5 cos, of Hessel et al. 2021, is another scale.

    `images`: their features [B, dimension], of any length; `embed` maps a few texts to theirs. Raises ValueError for
    another number of texts than of images.
    """
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images and {len(texts)} texts: each image has one")
    chunks = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    embedded = (
        torch.cat([embed(chunk).cpu().double() for chunk in chunks]) if chunks else images.double()
    )
    return 100 * cosine_similarity(images.cpu().double(), embedded)
