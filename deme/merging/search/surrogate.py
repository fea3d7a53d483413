"""Surrogate search: fit a quadratic to scores, evaluate its minimum, repeat with a smaller step.

A model-based trust-region method (Conn, Scheinberg and Vicente 2009, "Introduction to
derivative-free optimization", chapter 10); N = 4 takes 16 evaluations per round. The fit ignores
pruned vectors.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import lsq_linear

from deme.merging.search import Search
from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations

MAX_MOVE = 4.0  # trust region: the largest change of a weight in one round, in steps


class SurrogateSearch(Search):
    """Rounds of 1 + 2N + N(N-1)/2 scores around a centre and one of the fitted quadratic's minimum.

    The best vector so far is the centre of the next round. The step, `step` in the first round, is
    halved if the minimum of the quadratic was the best vector, else divided by 4. `ridge`: see
    `minimum`. The fit ignores infinite scores.
    """

    def __init__(
        self,
        low: float = -0.2,
        high: float = 2.0,
        step: float = 0.3,
        rounds: int = 3,
        ridge: float = 1e-3,
    ) -> None:
        self.box = Box(low, high)
        if not 0 < step <= (high - low) / 3:
            raise ValueError(
                f"step must lie in (0, (high - low) / 3 = {(high - low) / 3:.4g}], got {step}"
            )
        check_at_least("rounds", rounds, 1)
        if not 0 < ridge <= 1:
            raise ValueError(f"ridge must lie in (0, 1], got {ridge}")
        self.step, self.rounds, self.ridge = step, rounds, ridge

    def count(self, num_weights: int) -> int:
        """Return the number of points of all rounds, each with the minimum of its quadratic."""
        return self.rounds * (2 + 2 * num_weights + num_weights * (num_weights - 1) // 2)

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Search from `start`, or from the nearest vector in the box."""
        centre, step = self.box.nearest(start), self.step
        for _ in range(self.rounds):
            points = design(self.box, centre, step)
            scores = [evaluations(point) for point in points]
            if not any(map(math.isfinite, scores)):
                return
            offsets = (np.array(points) - centre) / step
            gradient, curvature = fit(offsets, np.array(scores))
            room = (np.array([[self.box.low], [self.box.high]]) - centre) / step
            move = minimum(
                gradient, curvature, room[0].clip(-MAX_MOVE), room[1].clip(max=MAX_MOVE), self.ridge
            )
            proposed = self.box.nearest(np.array(centre) + step * move)
            verified = evaluations(proposed)
            best = min(range(len(points)), key=scores.__getitem__)
            centre, step = (
                (proposed, step / 2) if verified < scores[best] else (points[best], step / 4)
            )


def design(box: Box, centre: Sequence[float], step: float) -> list[list[float]]:
    """Return the points in the box that determine a quadratic: 1 + 2 per axis + 1 per pair of axes.

    The points of an axis lie one step to both sides; at the border of the box, one and two steps
    inwards. The point of a pair lies one step along both axes, away from the border.
    """
    eye = np.eye(len(centre))
    tolerance = 1e-9 * step
    signs = [1.0 if x + step <= box.high + tolerance else -1.0 for x in centre]
    moves = [0 * eye[0]]
    for x, sign, axis in zip(centre, signs, eye, strict=True):
        both = sign > 0 and x - step >= box.low - tolerance
        moves += [sign * axis, -axis if both else 2 * sign * axis]
    moves += [
        signs[i] * eye[i] + signs[j] * eye[j]
        for i, j in itertools.combinations(range(len(centre)), 2)
    ]
    return [box.nearest(np.array(centre) + step * move) for move in moves]


def fit(offsets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit c + g'u + u'Hu/2 to the finite scores by least squares; return g [N] and H [N, N]."""
    size = offsets.shape[1]
    rows, columns = np.triu_indices(size)
    products = offsets[:, rows] * offsets[:, columns] * np.where(rows == columns, 0.5, 1.0)
    terms = np.hstack([np.ones((len(offsets), 1)), offsets, products])
    kept = np.isfinite(scores)
    solution = np.linalg.lstsq(terms[kept], scores[kept] - scores[kept][0], rcond=None)[0]
    curvature = np.zeros((size, size))
    curvature[rows, columns] = curvature[columns, rows] = solution[1 + size :]
    return solution[1 : 1 + size], curvature


def minimum(
    gradient: np.ndarray, curvature: np.ndarray, low: np.ndarray, high: np.ndarray, ridge: float
) -> np.ndarray:
    """Return the minimum [N] of g'u + u'H*u/2 over low <= u <= high; H* is H, regularized.

    Every eigenvalue of H below `ridge` times the largest |eigenvalue| or |gradient entry| is raised
    to that bound: a clearly convex model is minimized as it is, and a flat or concave direction is
    followed downhill. H* is positive definite, so the minimum is unique; bounded least squares on
    its square root (an active-set method) finds it exactly.
    """
    values, vectors = np.linalg.eigh(curvature)
    floor = ridge * max(np.abs(values).max(), np.abs(gradient).max())
    if floor == 0:
        return np.zeros_like(gradient)
    root = np.sqrt(np.maximum(values, floor))[:, None] * vectors.T  # H* = root' root
    target = np.linalg.solve(root.T, -gradient)
    return lsq_linear(root, target, (low, high), method="bvls").x
