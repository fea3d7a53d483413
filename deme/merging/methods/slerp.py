"""Spherical interpolation of task vectors: directions and lengths are averaged separately."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.merging.geometry import cosines_of, displace, gram
from deme.merging.methods import merge_method
from deme.system import BadConfig

OPPOSITE = -0.9995  # cosine below which rounding would choose the path between two directions
MIN_LENGTH = 1e-2  # length of a mean of unit vectors below which it has no direction
TOLERANCE = 1e-8  # last step, in radians
MAX_ITERATIONS = 100


@merge_method(
    paper="Shoemake 1985 (two vectors); Buss and Fillmore 2001, algorithm A1 (more)",
    elementwise=False,
    mean=True,
)
def slerp(
    experts: Sequence[Tensor], base: Tensor, weights: Sequence[float], scale: float = 1.0
) -> Tensor:
    """Return base + scale * length * direction, weighted means over the task vectors of one tensor.

    The direction is the spherical mean (`spherical_mean`) of the normalized task vectors; for two
    of them this is slerp with s = w_2 / (w_1 + w_2), for parallel ones their common direction. A
    zero task vector shortens the mean length and has no direction. Where the direction is not
    unique (opposite vectors), the plain weighted mean of the task vectors is used. Weights are
    divided by their sum; if all are 0, the base is returned. Raises BadConfig for negative weights.
    """
    if min(weights) < 0:
        raise BadConfig(
            f"merge=slerp is a weighted mean: merge.weights must be 0 or more; got {list(weights)}"
        )
    shares = torch.tensor(weights, dtype=torch.float64)
    shares = shares / shares.sum().clamp_min(torch.finfo(torch.float64).tiny)
    products = gram(experts, base)
    lengths = products.diagonal().sqrt()
    pointing = (lengths > 0) & (shares > 0)
    if not bool(pointing.any()):
        return base
    direction = spherical_mean(
        cosines_of(products)[pointing][:, pointing], shares[pointing] / shares[pointing].sum()
    )
    coefficients = shares.clone()
    if direction is not None:
        coefficients[pointing] = shares @ lengths * direction / lengths[pointing]
    return displace(experts, base, (scale * coefficients).tolist())


def spherical_mean(cosines: Tensor, shares: Tensor) -> Tensor | None:
    """Return c [N] so that m = sum c_i u_i is the unit vector of least sum s_i angle(u_i, m)^2.

    `cosines` [N, N] are those of the unit vectors u_i; `shares` s [N] are positive and sum to 1.
    All steps stay in the span of the u_i, so the iteration works on N coefficients: it starts from
    the direction of the plain mean and repeatedly follows the mean of the tangents towards the u_i.
    Vectors on one great circle need a single step. Returns None where the minimum is not unique:
    two of the u_i are opposite, the mean is opposite to one of them, or the u_i cancel.
    """

    def norm(coefficients: Tensor) -> Tensor:
        return (coefficients @ cosines @ coefficients).clamp_min(0).sqrt()

    if bool((cosines < OPPOSITE).any()):
        return None
    mean, angle = shares, torch.tensor(torch.inf)
    for _ in range(MAX_ITERATIONS):
        length = norm(mean) / mean.sum()
        if not length > MIN_LENGTH:  # vectors that cancel: coefficients without bound
            return None
        mean = mean / norm(mean)
        if angle < TOLERANCE:
            break
        towards = (cosines @ mean).clamp(-1, 1)
        if bool((towards < OPPOSITE).any()):
            return None
        pull = shares / torch.sinc(towards.arccos() / torch.pi)  # angle / sin(angle)
        step = pull - pull @ towards * mean
        angle = norm(step)
        mean = angle.cos() * mean + torch.sinc(angle / torch.pi) * step
    return mean / norm(mean)
