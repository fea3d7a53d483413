"""P2 weighting (Choi et al. 2022, eq. 8), not normalised, as its authors train with it."""

import math

from torch import Tensor


class P2:
    """w_x = SNR / (k + SNR)^gamma: 1 / (k + SNR)^gamma on the eps loss.

    gamma = 0 is the constant weighting.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if not (0 < k < math.inf and 0 <= gamma < math.inf):
            raise ValueError(
                f"k must be positive, gamma not negative, both finite; got k={k}, gamma={gamma}"
            )
        self.k, self.gamma = k, gamma

    def __call__(self, snr: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma
