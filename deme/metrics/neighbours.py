"""Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

import contextlib
import io

from torch import Tensor

KINDS = ("precision", "recall", "density", "coverage")


def precision_recall(features: Tensor, reference: Tensor, nearest_k: int) -> dict[str, float]:
    """Return the four KINDS of features [n, d] against a reference [m, d], computed by `prdc`.

    Higher is better. Precision is the share of generated images within the k-th neighbour distance
    of some reference image, recall the reverse; they depend on n, m and k. Raises ValueError with
    k + 1 or fewer images on a side.
    """
    least = nearest_k + 2
    if min(len(features), len(reference)) < least:
        raise ValueError(
            f"precision and recall with {nearest_k} neighbours need {least} images on each side, "
            f"got {len(features)} and {len(reference)}"
        )
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its counts
        found = compute_prdc(reference.numpy(), features.numpy(), nearest_k)
    return {name: float(found[name]) for name in KINDS}
