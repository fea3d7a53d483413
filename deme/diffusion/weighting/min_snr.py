"""Min-SNR-gamma (Hang et al. 2023, eq. 9)."""

import math

from torch import Tensor


class MinSNR:
    """w_x = min(SNR, gamma).

    That is min(1, gamma / SNR) on the eps loss, min(SNR, gamma) / (SNR + 1) on the v loss.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma must be positive and finite, got {gamma}")
        self.gamma = gamma

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp_max(self.gamma)
