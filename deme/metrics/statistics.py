"""Mean and covariance of features, in float64, batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deme.system import NotFinite
from deme.system.tensors import is_finite

LARGEST = 1e100  # of given numbers: their products are finite


@dataclass(eq=False)
class Statistics:
    """Streaming mean [d] and unbiased covariance [d, d] (as numpy.cov), mergeable across shards.

    Sums are taken about each batch's mean, so that a large offset does not cancel digits.
    """

    count: int = 0
    _mean: Tensor | None = None
    _scatter: Tensor | None = None

    @classmethod
    def given(cls, count: int, mean: Tensor, covariance: Tensor) -> "Statistics":
        """Return statistics of known values.

        Raises ValueError unless they fit together and lie within -1e100 to 1e100.
        """
        d = len(mean)
        if mean.shape != (d,) or covariance.shape != (d, d):
            raise ValueError(
                f"a mean {tuple(mean.shape)} and a covariance {tuple(covariance.shape)} "
                "do not fit together"
            )
        if not all(bool((values.abs() <= LARGEST).all()) for values in (mean, covariance)):
            raise ValueError(f"the statistics are NaN or infinite, or beyond {LARGEST:g}")
        symmetric = torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8)
        if not symmetric or bool((covariance.diagonal() < 0).any()):
            raise ValueError("a covariance is symmetric without negative variances; this is not")
        return cls(count, mean.double(), covariance.double() * (count - 1))

    def update(self, features: Tensor, weights: Tensor | None = None) -> "Statistics":
        """Add a batch [n, d] and return self; `weights` [n] count each row that many times.

        Raises NotFinite for NaN and infinite values, ValueError for another d.
        """
        batch = features.detach().double()
        if not is_finite(batch):
            raise NotFinite("features are NaN or infinite: the images or the extractor are damaged")
        count = len(batch) if weights is None else int(weights.sum())
        if not count:
            return self
        rows = None if weights is None else weights.to(batch).unsqueeze(1)
        mean = batch.mean(0) if rows is None else (rows * batch).sum(0) / count
        centred = batch - mean
        scatter = (centred if rows is None else centred * rows).T @ centred
        return self.merge(Statistics(count, mean, scatter))

    def merge(self, other: "Statistics") -> "Statistics":
        """Add the statistics of other images (Chan et al. 1979) and return self.

        Raises ValueError for another d.
        """
        if other._mean is None or other._scatter is None:
            return self
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = other._mean, other._scatter.clone()
        elif len(self._mean) != len(other._mean):
            raise ValueError(
                f"{len(other._mean)} features per image cannot join {len(self._mean)} per image"
            )
        else:
            total = self.count + other.count
            delta = other._mean - self._mean
            self._scatter.add_(other._scatter).addr_(
                delta, delta, alpha=self.count * other.count / total
            )
            self._mean = self._mean + delta * (other.count / total)
        self.count += other.count
        return self

    @property
    def mean(self) -> Tensor:
        """Mean [d]. Raises ValueError without images."""
        if self._mean is None:
            raise ValueError("no images were added")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance [d, d]. Raises ValueError with fewer than two images."""
        if self._scatter is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        return self._scatter / (self.count - 1)
