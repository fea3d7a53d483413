"""P2 weighting (Choi et al. 2022, eq. 8), not normalised, as its authors train with it."""

from torch import Tensor


class P2:
    """w_x = SNR / (k + SNR)^gamma: 1 / (k + SNR)^gamma on the eps loss.

    gamma = 0 is the constant weighting.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if not k > 0 or gamma < 0:
            raise ValueError(f"k must be positive and gamma not negative, got k={k}, gamma={gamma}")
        self.k, self.gamma = k, gamma

    def __call__(self, snr: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma
