"""Power-function averages over training steps, and others made of stored ones (EDM2).

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models" (CVPR 2024,
arXiv 2312.02696), section 3 and appendix C. After t steps such an average weighs the weights of
step k by the integral over (k - 1, k] of the profile

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),  0 < tau <= t,

so that closed forms of profiles are exact for averages that are updated step by step. All numbers
are in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TRACKED = (0.05, 0.10)  # lengths that EDM2 stores
MAX_LENGTH = 12**-0.5  # of the plain mean, gamma = 0


@dataclass(frozen=True)
class Profile:
    """The average of `length` (relative width, EDM2's sigma_rel) after `step` steps."""

    length: float
    step: int

    @property
    def gamma(self) -> float:
        """The exponent."""
        return exponent(self.length)


def exponent(length: float) -> float:
    """Return gamma >= 0 of a relative width: the standard deviation of p over t.

    It is the largest root of (gamma + 2)^2 (gamma + 3) length^2 = gamma + 1. Raises ValueError for
    a width that no gamma >= 0 has.
    """
    if not 0 < length <= MAX_LENGTH:
        raise ValueError(
            f"the length of an average lies above 0 and at most at 1/sqrt(12) = {MAX_LENGTH:.4f}, "
            f"the plain mean; got {length}"
        )

    inverse = length**-2
    # (gamma + 2)^2 (gamma + 3) - (gamma + 1) / length^2, by powers of gamma
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


def decay(gamma: float, step: int) -> float:
    """Return beta of update `step` = 1, 2, ...: average = beta average + (1 - beta) weights.

    It is 0 at the first, which forgets the start of training.
    """
    return float((1 - 1 / step) ** (gamma + 1))


def step_weights(profile: Profile) -> Tensor:
    """Return what an average weighs the weights of step k = 1 .. `step` by, [step]; sum 1."""
    ends = torch.arange(profile.step + 1, dtype=torch.float64) / profile.step
    return (ends ** (profile.gamma + 1)).diff()


def inner_product(one: Profile, other: Profile) -> float:
    """Return the integral of the product of two profiles (appendix C)."""
    first, last = sorted((one, other), key=lambda profile: profile.step)
    a, b = first.gamma, last.gamma
    overlap = math.exp(b * math.log(first.step / last.step))
    return (a + 1) * (b + 1) / (a + b + 1) * overlap / last.step


@dataclass(frozen=True)
class Reconstruction:
    """Weights [N] of stored averages, with sum 1, and what they leave of the wanted profile.

    `error`: norm of the difference of the profiles, as a share of the norm of the wanted one.
    """

    weights: tuple[float, ...]
    error: float


def reconstruct(stored: Sequence[Profile], wanted: Profile) -> Reconstruction:
    """Return the combination of stored profiles that is nearest to another in the square mean.

    EDM2 solves the same least squares without a condition on the sum. Its networks do not depend on
    the scale of their weights; in others a sum of 0.98 shrinks every layer, so here the sum is 1,
    by a Lagrange multiplier. Rows and columns are scaled to a diagonal of ones before solving.
    """
    products = [[inner_product(a, b) for b in (*stored, wanted)] for a in stored]
    gram, target = torch.tensor(products, dtype=torch.float64).split([len(stored), 1], dim=1)
    target = target[:, 0]
    scale = gram.diagonal().rsqrt()
    system = torch.zeros(len(stored) + 1, len(stored) + 1, dtype=torch.float64)
    system[:-1, :-1] = gram * scale * scale[:, None]
    system[-1, :-1] = system[:-1, -1] = scale
    right = torch.cat([target * scale, torch.ones(1, dtype=torch.float64)])
    solved = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:-1, 0]
    weights = solved * scale
    weights /= weights.sum()
    norm = inner_product(wanted, wanted)
    left = norm - 2 * weights @ target + weights @ gram @ weights
    return Reconstruction(tuple(weights.tolist()), math.sqrt(max(0.0, float(left)) / norm))
