"""Loss weightings: a scheme gives the weight w_x of the x0 loss; one place converts it.

See docs/method.md#loss-weightings.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# SNRs are clamped to these: far enough for every limit, and exact enough in float64.
MIN_SNR, MAX_SNR = 1e-100, 1e100
INFINITE = 1e38  # training is in float32
SMALLEST = 1e-12  # a weight below which nothing is trained

# SNR [..., T], positive and finite -> the weight of ||x0 - x0_hat||^2, same shape. With a class
# attribute `native = True`, it is the weight of the network's own squared error instead, whatever
# it predicts.
Weighting = Callable[[Tensor], Tensor]


class Infinite(ValueError):
    """A weight that cannot be trained with."""


def prediction_weight(weighting: Weighting, snr: Tensor, prediction_type: str) -> Tensor:
    """Return the weight on the network's own squared error, float64.

    It is w_x / SNR for eps, w_x for x0, w_x / (SNR + 1) for v, w_x / (sqrt(SNR) + 1)^2 for the
    flow, because at fixed x_t ||eps err||^2 = SNR ||x0 err||^2, ||v err||^2 = (SNR + 1) ||x0
    err||^2, and ||flow err||^2 = (sqrt(SNR) + 1)^2 ||x0 err||^2, the flow being eps - x0. At SNR 0
    and infinity it is the limit, which may be 0 or infinite.
    """
    snr = snr.double().clamp(MIN_SNR, MAX_SNR)
    weight = weighting(snr)
    if not getattr(weighting, "native", False):
        shares = {
            "epsilon": snr,
            "sample": torch.ones_like(snr),
            "v_prediction": snr + 1,
            "flow_prediction": (snr.sqrt() + 1).square(),
        }
        if prediction_type not in shares:
            raise ValueError(
                f"unknown prediction type {prediction_type!r}; allowed: {', '.join(shares)}"
            )
        weight = weight / shares[prediction_type]
    weight = torch.where(weight > INFINITE, torch.inf, weight)
    return torch.where(weight.abs() < 1 / INFINITE, 0.0, weight)


def timestep_weights(
    weighting: Weighting,
    snr: Tensor,
    prediction_type: str,
    max_weight: float | None = None,
    normalize: bool = False,
) -> Tensor:
    """Return the weight of the network's own squared error at every timestep, [T] float64.

    `max_weight` caps it, then `normalize` divides by its mean over all timesteps. Raises
    ValueError, also if nothing would be trained, and Infinite for a weight that is infinite.
    """
    weight = prediction_weight(weighting, snr, prediction_type)
    name = type(weighting).__name__
    if weight.shape != snr.shape or not bool((weight >= 0).all()):
        raise ValueError(f"{name} must give one weight, not negative, per SNR; got {weight}")
    if max_weight is not None:
        if type(max_weight) not in (int, float) or not max_weight > 0:
            raise ValueError(f"the largest weight must be a positive number, got {max_weight!r}")
        weight = weight.clamp_max(max_weight)
    infinite = (~torch.isfinite(weight)).nonzero().flatten().tolist()
    if infinite:
        raise Infinite(
            f"{name} is infinite for {prediction_type} at t = {infinite[0]}, "
            f"where the SNR is {float(snr[infinite[0]]):g}\n"
            "type: loss_weight.max=1000"
        )
    if type(normalize) is not bool:
        raise ValueError(f"normalize must be true or false, got {normalize!r}")
    if not bool((weight >= SMALLEST).any()):
        raise ValueError(
            f"{name} is below {SMALLEST:g} at every timestep (at most {float(weight.max()):g}): "
            "nothing would be trained"
        )
    return weight / weight.mean() if normalize else weight


def mass(weights: Tensor, boundaries: Sequence[int]) -> list[float]:
    """Return the share of `weights` [T] that falls between each two boundaries."""
    sums = [float(weights[low:high].sum()) for low, high in itertools.pairwise(boundaries)]
    total = float(weights.sum())
    return [part / total if total else 0.0 for part in sums]
