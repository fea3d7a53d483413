"""Gradient search: quasi-Newton steps on the objective's own gradient, dL/dw_i = <grad L(theta(w)), tau_i> (METHOD 3.1).

L-BFGS-B: Byrd, Lu, Nocedal and Zhu 1995, "A limited memory algorithm for bound constrained optimization", SIAM J. Sci. Comput. 16.
For deterministic objectives: fixed images, timesteps and noise.
"""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations

SLOPE = 1e-8  # converged: no weight's slope, where the box lets it move, is larger; score per unit of weight
GAIN = 1e-12  # converged: a step gained less than this share of the score, or of 1 if the score is smaller


class _Enough(Exception):
    pass


class GradientSearch:
    """L-BFGS-B in [low, high] until it has converged or asked for `max_evaluations` scores with their gradient.

    A score or gradient that is not finite is a wall: the line search gets a score above all others, without slope, and turns back.
    """

    needs_gradients = True  # each score costs a backward pass, too

    def __init__(self, low: float = -0.2, high: float = 2.0, max_evaluations: int = 60) -> None:
        self.box = Box(low, high)
        check_at_least("max_evaluations", max_evaluations, 1)
        self.max_evaluations = max_evaluations

    def count(self, num_weights: int) -> int:  # noqa: ARG002
        """Return `max_evaluations`, each a score with its gradient."""
        return self.max_evaluations

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Descend from `start`, or from the nearest vector in the box."""
        scores: list[float] = []

        def score_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
            if len(scores) == self.max_evaluations:
                raise _Enough
            score, slope = evaluations.gradient(self.box.nearest(weights))
            if not all(map(math.isfinite, (score, *slope))):
                if not scores:
                    raise _Enough  # nowhere to descend from
                score, slope = max(scores) + abs(max(scores)) + 1, [0.0] * len(slope)
            scores.append(score)
            return score, np.array(slope)

        first = np.array(self.box.nearest(start))
        bounds = [(self.box.low, self.box.high)] * len(first)
        options = {"gtol": SLOPE, "ftol": GAIN, "maxiter": self.max_evaluations}
        with contextlib.suppress(_Enough):
            minimize(
                score_and_slope, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
