"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

import torch
from torch import Tensor

from deme.metrics.statistics import Statistics

BLOCK = 256


class FrechetDistance:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) to a fixed reference (m2, S2).

    The root R of the reference, S2 = R R^T, is computed once. tr (S1 S2)^(1/2) is the sum of the
    square roots of the eigenvalues of R^T S1 R, in float64 on `device`. Eigenvalues that can only
    be rounding errors are left out, since their roots are not small: those beyond the rank n - 1 of
    a covariance of n images, and those below d eps times the largest (features that are always 0).
    """

    def __init__(self, reference: Statistics, device: str = "cpu") -> None:
        self.device = device
        self.mean = reference.mean.to(device)
        covariance = reference.covariance.to(device)
        self.trace = covariance.trace()
        self.root, self.triangular = _root(covariance, reference.count - 1)

    def __call__(self, generated: Statistics) -> float:
        """Return the distance to the reference. Raises ValueError for another feature dimension."""
        self._check(len(generated.mean))
        covariance = generated.covariance.to(self.device)
        product = (
            _lower(self.root, covariance)
            if self.triangular
            else self.root.T @ covariance @ self.root
        )
        return self._distance(
            generated.mean.to(self.device), covariance.trace(), product, generated.count - 1
        )

    def of_features(self, features: Tensor, counts: Tensor | None = None) -> float:
        """Return the distance of features [n, d], row i counted `counts[i]` times.

        With X the centred rows, X S2 X^T = (X R)(X R)^T has the eigenvalues of R^T S1 R, and is
        [n, n]: faster for n < d, and without the zeros that cost accuracy.
        """
        self._check(features.shape[1])
        rows = features.to(self.device).double()
        if counts is None:
            counts = torch.ones(len(rows), dtype=torch.float64)
        present = counts.to(self.device) > 0
        rows, times = rows[present], counts.to(rows)[present]
        total = times.sum()
        if total < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {int(total)}")
        mean = times @ rows / total
        centred = (rows - mean) * (times / (total - 1)).sqrt()[:, None]
        half = _times(centred, self.root) if self.triangular else centred @ self.root
        return self._distance(mean, centred.square().sum(), _gram(half), len(rows) - 1)

    def _distance(self, mean: Tensor, trace: Tensor, product: Tensor, rank: int) -> float:
        eigenvalues = torch.linalg.eigvalsh(product)  # of the lower triangle
        cross = _significant(eigenvalues, min(rank, self.root.shape[1])).sqrt().sum()
        return float((mean - self.mean).square().sum() + trace + self.trace - 2 * cross)

    def _check(self, dimension: int) -> None:
        if dimension != len(self.mean):
            raise ValueError(
                f"{dimension} features per image, {len(self.mean)} in the reference: "
                "another extractor"
            )


def _root(covariance: Tensor, rank: int) -> tuple[Tensor, bool]:
    """Return R [d, r] with R R^T = `covariance`, and whether it is lower triangular.

    It is the Cholesky factor, or made of eigenvectors where the covariance is singular.
    """
    if rank >= len(covariance):
        root, info = torch.linalg.cholesky_ex(covariance)
        if int(info) == 0:
            return root, True
    values, vectors = torch.linalg.eigh(covariance)
    kept = _significant(values, rank)
    return vectors[:, len(values) - len(kept) :] * kept.sqrt(), False


# Products of which a part is known to be zero, or is not needed, in blocks of columns.


def _times(rows: Tensor, root: Tensor) -> Tensor:
    """Return X R for a lower triangular R, at half the cost."""
    return torch.cat([rows[:, s:] @ root[s:, s : s + BLOCK] for s in range(0, len(root), BLOCK)], 1)


def _gram(rows: Tensor) -> Tensor:
    """Return the lower triangle of X X^T, at half the cost."""
    product = rows.new_zeros(len(rows), len(rows))
    for start in range(0, len(rows), BLOCK):
        product[start:, start : start + BLOCK] = rows[start:] @ rows[start : start + BLOCK].T
    return product


def _lower(root: Tensor, covariance: Tensor) -> Tensor:
    """Return the lower triangle of R^T S R for a lower triangular R, at a third of the cost."""
    product = torch.zeros_like(covariance)
    for start in range(0, len(root), BLOCK):
        columns = slice(start, start + BLOCK)
        product[start:, columns] = root[start:, start:].T @ (
            covariance[start:, start:] @ root[start:, columns]
        )
    return product


def _significant(eigenvalues: Tensor, rank: int) -> Tensor:
    """Return those eigenvalues, in ascending order, that are not rounding errors.

    They are of a positive semidefinite matrix of rank `rank` or less.
    """
    if rank <= 0 or not len(eigenvalues):
        return eigenvalues[:0]
    largest = eigenvalues[max(0, len(eigenvalues) - rank) :]
    return largest[largest > len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * largest[-1]]
