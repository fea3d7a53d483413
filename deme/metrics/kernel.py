"""Kernel inception distance (Binkowski et al. 2018): unbiased squared MMD with the kernel (x.y / d + 1)^3.

All pairs are used rather than averages over random subsets: the same expectation, less variance, and a standard error and
bootstrap replicates that follow from each image's own share.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1000  # rows of the kernel matrix in memory at once


@dataclass(frozen=True)
class KernelDistance:
    """`value`, its standard error over images of both sets, and every generated image's first-order share of it [n].

    The shares have mean 0: resampled `counts` of the generated images change the value by counts @ shares / n.
    """

    value: float
    standard_error: float
    shares: Tensor


def kernel_distance(features: Tensor, reference: Tensor, device: str = "cpu") -> KernelDistance:
    """Compare features [n, d] and [m, d], in float64 on `device`. Raises ValueError with fewer than two rows or NaN."""
    if len(features) < 2 or len(reference) < 2:
        raise ValueError(
            f"KID needs at least 2 images on each side, got {len(features)} and {len(reference)}"
        )
    if features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features of {features.shape[1]} numbers, reference of {reference.shape[1]}: another extractor"
        )
    x, y = features.to(device).double(), reference.to(device).double()
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError(
            "features hold NaN or infinite values; the images or the extractor are damaged"
        )
    to_own, to_other = _mean_to_others(x), _means(x, y)
    reference_own, reference_other = _mean_to_others(y), _means(y, x)
    value = to_own.mean() + reference_own.mean() - 2 * to_other.mean()
    shares, reference_shares = 2 * (to_own - to_other), 2 * (reference_own - reference_other)
    variance = shares.var() / len(x) + reference_shares.var() / len(y)
    return KernelDistance(float(value), float(variance.sqrt()), (shares - shares.mean()).cpu())


def _means(x: Tensor, y: Tensor) -> Tensor:
    """Return every row's mean kernel to the rows of `y`, [n]."""
    return torch.cat([_kernel(rows, y).mean(1) for rows in x.split(BLOCK)])


def _mean_to_others(x: Tensor) -> Tensor:
    """Return every row's mean kernel to the other rows, [n]."""
    self_kernel = (x.square().sum(1) / x.shape[1] + 1) ** 3
    return (_means(x, x) * len(x) - self_kernel) / (len(x) - 1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
