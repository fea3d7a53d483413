"""TIES: trim small changes, elect a sign per entry, average what agrees (Yadav et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.merging.magnitudes import cutoffs
from deme.merging.methods import Stream, merge_method
from deme.system import BadConfig

TRIMS = ("model", "tensor")


def whole_model_thresholds(
    stream: Stream, density: float = 0.2, trim: str = "model", **_: object
) -> dict[str, list[float]]:
    """Return the smallest magnitude that each expert's whole task vector keeps (trim="model")."""
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
    """Return base + scale * (entrywise weighted mean of the trimmed task vectors of elected sign).

    Trimming keeps the k = round(density * entries) largest magnitudes of each expert, at least one,
    and all entries that equal the k-th, so that no order decides. The entries are those of the
    whole model (trim="model", as the authors do; `thresholds`, one per expert, come from the first
    pass) or of one tensor (trim="tensor"). The elected sign is that of the weighted sum; where it
    is zero, the base stays. Equal weights give the paper's plain mean. Raises BadConfig for
    settings out of range.
    """
    _check(density, trim)
    if min(weights) < 0:
        raise BadConfig(
            f"merge=ties is a weighted mean: merge.weights must be 0 or more; got {list(weights)}"
        )
    vectors = [expert - base for expert in experts]
    if trim == "tensor":
        thresholds = cutoffs(lambda: iter([vectors]), density)
    if thresholds is None:
        raise ValueError("trim='model' needs the thresholds that ties.prepare returns")
    trimmed = [
        torch.where(vector.abs().float() >= cutoff, vector, 0.0)  # cutoffs are float32
        for vector, cutoff in zip(vectors, thresholds, strict=True)
    ]
    mass = sum((w * v for w, v in zip(weights, trimmed, strict=True)), torch.zeros_like(base))
    elected, total, agreed = mass.sign(), torch.zeros_like(base), torch.zeros_like(base)
    for weight, vector in zip(weights, trimmed, strict=True):
        agrees = vector.sign() == elected
        total = total + weight * torch.where(agrees, vector, 0.0)
        agreed = agreed + weight * agrees.to(vector.dtype)
    return base + scale * torch.where(elected != 0, total / agreed, 0.0)


def _check(density: float, trim: str) -> None:
    if not 0 < density <= 1:
        raise BadConfig(
            f"merge.density={density} is not a share of entries to keep\n"
            "allowed: above 0, up to 1 (keep all); type: merge.density=0.2"
        )
    if trim not in TRIMS:
        raise BadConfig(f"merge.trim={trim} is unknown; allowed: {', '.join(TRIMS)}")
