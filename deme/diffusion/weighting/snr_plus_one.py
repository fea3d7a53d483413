"""SNR + 1 (Salimans & Ho 2022, section 4: the v loss)."""

from torch import Tensor


class SNRPlusOne:
    """w_x = SNR + 1: weight 1 on the v loss, 1 + 1 / SNR on the eps loss."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr + 1
