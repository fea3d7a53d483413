"""Kernel inception distance (Binkowski et al. 2018): squared MMD with the kernel (x.y / d + 1)^3.

The unbiased estimate over all pairs, rather than an average over random subsets: the same
expectation, less variance, and a standard error and bootstrap replicates that follow from the
contribution of each image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deme.system import NotFinite
from deme.system.tensors import is_finite

BLOCK = 1000  # rows of the kernel matrix in memory at once


@dataclass(frozen=True)
class KernelDistance:
    """`value`, its standard error over images of both sets, and contributions of images.

    `shares` [n] is the first-order contribution of every generated image, of mean 0: resampled
    `counts` of the images change the value by counts @ shares / n.
    """

    value: float
    standard_error: float
    shares: Tensor


def kernel_distance(features: Tensor, reference: Tensor, device: str = "cpu") -> KernelDistance:
    """Compare features [n, d] and [m, d], in float64 on `device`.

    Raises ValueError for fewer than two rows or another number of features, NotFinite for NaN.
    """
    if min(len(features), len(reference)) < 2:
        raise ValueError(
            f"KID needs at least 2 images on each side, got {len(features)} and {len(reference)}"
        )
    if features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{features.shape[1]} features per image, {reference.shape[1]} in the reference: "
            "another extractor"
        )
    x, y = features.to(device).double(), reference.to(device).double()
    if not (is_finite(x) and is_finite(y)):
        raise NotFinite("features are NaN or infinite: the images or the extractor are damaged")
    to_own, to_other = _mean_to_others(x), _means(x, y)
    reference_own, reference_other = _mean_to_others(y), _means(y, x)
    value = to_own.mean() + reference_own.mean() - 2 * to_other.mean()
    shares, reference_shares = 2 * (to_own - to_other), 2 * (reference_own - reference_other)
    variance = shares.var() / len(x) + reference_shares.var() / len(y)
    return KernelDistance(float(value), float(variance.sqrt()), (shares - shares.mean()).cpu())


def _means(x: Tensor, y: Tensor) -> Tensor:
    """Return every row's mean kernel to the rows of `y`, [n]."""
    return torch.cat([((rows @ y.T / x.shape[1] + 1) ** 3).mean(1) for rows in x.split(BLOCK)])


def _mean_to_others(x: Tensor) -> Tensor:
    """Return every row's mean kernel to the other rows, [n]."""
    self_kernel = (x.square().sum(1) / x.shape[1] + 1) ** 3
    return (_means(x, x) * len(x) - self_kernel) / (len(x) - 1)
