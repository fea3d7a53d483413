"""Loss weightings: a scheme names the weight w_x of the x0 loss; one place converts it (METHOD 2.1)."""

from typing import Protocol

import torch
from torch import Tensor


class Weighting(Protocol):
    """Maps SNR [..., T] to the weight of ||x0 - x0_hat||^2, same shape."""

    def __call__(self, snr: Tensor) -> Tensor: ...


def prediction_weight(weighting: Weighting, snr: Tensor, prediction_type: str) -> Tensor:
    """Return the weight on the network's own squared error: w_x / SNR for eps, w_x for x0, w_x / (SNR + 1) for v.

    From ||eps err||^2 = SNR ||x0 err||^2 and ||v err||^2 = (SNR + 1) ||x0 err||^2 at fixed x_t. Where SNR is 0 the eps
    weight is the limit from above for schemes proportional to SNR there, and infinite otherwise.
    """
    w_x = weighting(snr)
    if prediction_type == "sample":
        return w_x
    if prediction_type == "v_prediction":
        return w_x / (snr + 1)
    if prediction_type == "epsilon":
        tiny = torch.finfo(snr.dtype).tiny
        safe = snr.clamp_min(tiny)
        return weighting(safe) / safe
    raise ValueError(f"unknown prediction type {prediction_type!r}; allowed: epsilon, sample, v_prediction")
