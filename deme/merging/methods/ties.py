"""TIES: trim small changes, elect a sign per entry, average the experts that agree with it (Yadav et al. 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deme.merging.magnitudes import cutoffs, keep
from deme.merging.methods import Stream, merge_method
from deme.system.errors import BadConfig

TRIMS = ("model", "tensor")


def whole_model_thresholds(
    stream: Stream, density: float = 0.2, trim: str = "model", **_: Any
) -> dict[str, list[float]]:
    """Return for each expert the smallest magnitude that it keeps of its whole task vector; nothing for trim="tensor"."""
    _check(density, trim)
    if trim == "tensor":
        return {}
    return {
        "thresholds": cutoffs(
            lambda: ([e - base for e in experts] for _, experts, base in stream()), density
        )
    }


@merge_method(
    paper="arXiv 2306.01708", elementwise=False, prepare=whole_model_thresholds, mean=True
)
def ties(
    experts: Sequence[Tensor],
    base: Tensor,
    weights: Sequence[float],
    density: float = 0.2,
    scale: float = 1.0,
    trim: str = "model",
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """Return base + scale * (weighted mean, entry by entry, of the trimmed task vectors whose sign was elected).

    Trimming keeps the `density` largest magnitudes of each expert, k = density * entries to the nearest whole number and at
    least one, and all entries that equal the k-th: no order decides. Entries are the whole model's (trim="model", as the
    authors do; `thresholds`, one per expert, come from the first pass) or one tensor's (trim="tensor"). The elected sign is that
    of the weighted sum; where it is zero, the base stays. Equal weights give the paper's plain mean. Raises BadConfig.
    """
    _check(density, trim)
    if min(weights) < 0:
        raise BadConfig(
            f"ties takes a weighted mean, so merge.weights must be 0 or more; got {list(weights)}"
        )
    vectors = [expert - base for expert in experts]
    if trim == "tensor":
        thresholds = cutoffs(lambda: iter([vectors]), density)
    if thresholds is None:
        raise ValueError("trim='model' needs the thresholds that ties.prepare finds in all tensors")
    trimmed = [keep(vector, cutoff) for vector, cutoff in zip(vectors, thresholds, strict=True)]
    mass, total, agreed = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    for weight, vector in zip(weights, trimmed, strict=True):
        mass = mass + weight * vector
    elected = mass.sign()
    for weight, vector in zip(weights, trimmed, strict=True):
        agrees = vector.sign() == elected
        total = total + weight * torch.where(agrees, vector, 0.0)
        agreed = agreed + weight * agrees.to(vector.dtype)
    return base + scale * torch.where(elected != 0, total / agreed, 0.0)


def _check(density: float, trim: str) -> None:
    if not 0 < density <= 1:
        raise BadConfig(
            f"merge.density={density} is not the share of entries to keep\n"
            "allowed: above 0, up to 1 (keep all); type: merge.density=0.2"
        )
    if trim not in TRIMS:
        raise BadConfig(f"merge.trim={trim} is unknown; allowed: {', '.join(TRIMS)}")
