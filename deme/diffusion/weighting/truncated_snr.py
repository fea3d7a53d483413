"""Truncated SNR (Salimans & Ho 2022, section 4)."""

from torch import Tensor


class TruncatedSNR:
    """w_x = max(SNR, 1): the larger of the x0 loss and the eps loss."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp_min(1)
