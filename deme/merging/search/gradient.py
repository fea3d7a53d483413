"""Gradient search: L-BFGS-B on the gradient of the objective, dL/dw_i = <grad L(theta(w)), tau_i>.

Byrd, Lu, Nocedal and Zhu 1995, "A limited memory algorithm for bound constrained optimization",
SIAM J. Sci. Comput. 16. For deterministic objectives: fixed images, timesteps and noise.
"""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from deme.merging.search import Search
from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations

GRADIENT_TOLERANCE = 1e-8  # converged: no entry of the projected gradient is larger
SCORE_TOLERANCE = 1e-12  # converged: a step improves max(score, 1) by less than this share


class _Finished(Exception):
    pass


class GradientSearch(Search):
    """L-BFGS-B in [low, high] until convergence or `max_evaluations` scores with their gradients.

    Where a score or gradient is not finite, the line search gets a score above all others with
    gradient 0, and turns back.
    """

    needs_gradients = True

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

        def score_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
            if len(scores) == self.max_evaluations:
                raise _Finished
            score, gradient = evaluations.gradient(self.box.nearest(weights))
            if not all(map(math.isfinite, (score, *gradient))):
                if not scores:
                    raise _Finished  # the start itself is not finite
                score, gradient = max(scores) + abs(max(scores)) + 1, [0.0] * len(gradient)
            scores.append(score)
            return score, np.array(gradient)

        first = np.array(self.box.nearest(start))
        with contextlib.suppress(_Finished):
            minimize(
                score_and_gradient,
                first,
                jac=True,
                method="L-BFGS-B",
                bounds=[(self.box.low, self.box.high)] * len(first),
                options={
                    "gtol": GRADIENT_TOLERANCE,
                    "ftol": SCORE_TOLERANCE,
                    "maxiter": self.max_evaluations,
                },
            )
