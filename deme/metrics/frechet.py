"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

import torch
from torch import Tensor

from deme.metrics.statistics import Statistics


class FrechetDistance:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) to a fixed reference, whose square root is taken once.

    tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of R^T S1 R, where S2 = R R^T.
    """

    def __init__(self, reference: Statistics) -> None:
        self.mean = reference.mean
        self.trace = reference.covariance.trace()
        values, vectors = torch.linalg.eigh(reference.covariance)
        self.root: Tensor = vectors * values.clamp_min(0).sqrt()

    def __call__(self, generated: Statistics) -> float:
        """Return the distance of `generated` to the reference."""
        covariance = generated.covariance
        eigenvalues = torch.linalg.eigvalsh(self.root.T @ covariance @ self.root)
        cross = eigenvalues.clamp_min(0).sqrt().sum()
        offset = (generated.mean - self.mean).square().sum()
        return float(offset + covariance.trace() + self.trace - 2 * cross)
