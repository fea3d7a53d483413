"""Mean and covariance of features, in float64, batch by batch."""

import torch
from torch import Tensor


class Statistics:
    """Streaming mean [d] and unbiased covariance [d, d] (as numpy.cov), mergeable across shards.

    Sums are taken about the first batch's mean, so that large offsets do not cancel digits away.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def update(self, features: Tensor, weights: Tensor | None = None) -> "Statistics":
        """Add a batch [n, d]; `weights` [n] count each row that many times. Raises ValueError for NaN."""
        batch = features.detach().double()
        if not bool(torch.isfinite(batch).all()):
            raise ValueError("features hold NaN or infinite values; the images or the extractor are damaged")
        rows = torch.ones(len(batch), dtype=torch.float64) if weights is None else weights.double()
        other = Statistics()
        other.count = int(rows.sum())
        if other.count:
            other._mean = rows @ batch / other.count
            centred = batch - other._mean
            other._scatter = (centred * rows[:, None]).T @ centred
        return self.merge(other)

    def merge(self, other: "Statistics") -> "Statistics":
        """Add the statistics of other images (Chan et al. 1979) and return self."""
        if other.count == 0:
            return self
        assert other._mean is not None
        assert other._scatter is not None
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = other._mean, other._scatter
        else:
            total = self.count + other.count
            delta = other._mean - self._mean
            self._scatter = (
                self._scatter + other._scatter + torch.outer(delta, delta) * (self.count * other.count / total)
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
