"""Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), by the latter's `prdc`."""

import contextlib
import io

from torch import Tensor


def precision_recall(features: Tensor, reference: Tensor, nearest_k: int) -> dict[str, float]:
    """Return precision, recall, density and coverage of features [n, d] against a reference [m, d]; higher is better.

    Precision: the share of generated images within the k-th neighbour distance of some reference image; recall: the
    reverse. They depend on n, m and k. Raises ValueError with no more than k + 1 images on a side.
    """
    least = nearest_k + 2
    if len(features) < least or len(reference) < least:
        raise ValueError(
            f"precision and recall with {nearest_k} neighbours need {least} images on each side, got {len(features)} "
            f"and {len(reference)}"
        )
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its counts
        found = compute_prdc(reference.numpy(), features.numpy(), nearest_k)
    return {name: float(found[name]) for name in ("precision", "recall", "density", "coverage")}
