"""CMA-ES: a normal distribution of merge weights that adapts to the ranking of the scores.

Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv 1604.00772; the library is Nomura and
Shibata 2024, "cmaes: a simple yet practical Python library for CMA-ES", arXiv 2402.01373. Only
ranks count, so that noise and the scale of the scores do little harm.
"""

import math
from collections.abc import Sequence

import numpy as np
from cmaes import CMA

from deme.merging.search import Search
from deme.merging.search.box import Box, check_at_least
from deme.merging.search.evaluations import Evaluations
from deme.system import logger

# evaluations per weight; 60 for 20 weights ended far above the minimum (experiments/averaging)
FEWEST_PER_WEIGHT = 10
WORST = 1e300  # stands for an infinite score, whose differences would be NaN


class CMAESSearch(Search):
    """Evaluate `start`, then generations of vectors until `max_evaluations` or convergence.

    `sigma`: the initial standard deviation of each weight. `population`: vectors per generation;
    None: 4 + floor(3 ln N), as in the tutorial. A vector outside [low, high] is sampled again, at
    most 100 times, then clipped. The search is a function of `seed`.
    """

    def __init__(
        self,
        low: float = -0.2,
        high: float = 2.0,
        sigma: float = 0.25,
        max_evaluations: int = 60,
        population: int | None = None,
        seed: int = 0,
    ) -> None:
        self.box = Box(low, high)
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma must be positive, got {sigma}")
        check_at_least("max_evaluations", max_evaluations, 1)
        if population is not None:
            check_at_least("population", population, 4)  # the covariance needs two parents
        check_at_least("seed", seed, 0)
        if seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, got {seed}")
        self.sigma, self.max_evaluations = sigma, max_evaluations
        self.population, self.seed = population, seed

    def count(self, num_weights: int) -> int:  # noqa: ARG002
        """Return `max_evaluations`."""
        return self.max_evaluations

    def run(self, evaluations: Evaluations, start: Sequence[float]) -> None:
        """Search from `start`, or from the nearest vector in the box."""
        if self.max_evaluations < (enough := FEWEST_PER_WEIGHT * len(start)):
            logger.warning(
                "search=cma_es: %d evaluations may be too few for %d weights; type: "
                "search.max_evaluations=%d or more, or search=gradient if the objective has a "
                "gradient",
                self.max_evaluations,
                len(start),
                enough,
            )
        mean = self.box.nearest(start)
        evaluations(mean)
        distribution = CMA(
            np.array(mean),
            self.sigma,
            bounds=np.array([[self.box.low, self.box.high]] * len(mean)),
            seed=self.seed,
            population_size=self.population,
        )
        generation: list[tuple[np.ndarray, float]] = []
        for _ in range(self.max_evaluations - 1):
            weights = self.box.nearest(distribution.ask())
            generation.append((np.array(weights), min(evaluations(weights), WORST)))
            if len(generation) == distribution.population_size:
                distribution.tell(generation)
                generation = []
                if distribution.should_stop():
                    return
