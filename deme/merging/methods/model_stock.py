"""Model Stock: interpolate from the base towards the mean of the experts (Jang et al. 2024)."""

from collections.abc import Sequence

from torch import Tensor

from deme.merging.geometry import cosines_of, displace, gram
from deme.merging.methods import merge_method
from deme.system import BadConfig


@merge_method(paper="arXiv 2403.19522", elementwise=False)
def model_stock(experts: Sequence[Tensor], base: Tensor) -> Tensor:
    """Return base + t * mean(expert - base) with t = N cos / (1 + (N - 1) cos) in [0, 1].

    `cos` is the mean pairwise cosine of the task vectors of the whole tensor; a zero task vector
    has cosine 0 with the others. A mean cosine of 0 or less gives the base. Raises BadConfig for
    fewer than two experts.
    """
    count = len(experts)
    if count < 2:
        raise BadConfig(f"merge=model_stock needs at least 2 experts, got {count}")
    cosines = cosines_of(gram(experts, base))
    cosine = float(cosines.triu(diagonal=1).sum()) / (count * (count - 1) / 2)
    ratio = min(1.0, count * cosine / (1 + (count - 1) * cosine)) if cosine > 0 else 0.0
    return displace(experts, base, [ratio / count] * count)
