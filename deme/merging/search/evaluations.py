"""Scores of merge weights within a budget; a stopped search is replayed from its journal."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from deme.merging.search import Objective
from deme.merging.search.journal import Evaluation, Journal
from deme.system import WorkFailed


class BudgetSpent(Exception):
    """The next evaluation does not fit into the budget: the search ends and keeps its results."""


class Evaluations:
    """Scores of merge weights: first those of the journal, then those of the objective.

    A vector that was evaluated before costs nothing.

    `rungs`: ascending fractions of the objective's images that end in 1. A vector is scored at the
    first rung and promoted to the next one if its score is finite and among the best `keep` share
    of all scores at this rung so far, its own included, at least one (asynchronous successive
    halving, Li et al. 2020, arXiv 1810.05934). Otherwise it is pruned and its score is infinite,
    because a score on few images cannot be compared to one on all. `max_images`, `max_seconds`:
    budget of all attempts together. `on_evaluation` is called with each new evaluation after it is
    stored. Raises BadConfig for rungs that are not ascending or do not end in 1, WorkFailed for a
    journal that another search wrote.
    """

    def __init__(
        self,
        objective: Objective,
        journal: Path,
        rungs: Sequence[float] = (1.0,),
        keep: float = 0.5,
        max_images: int | None = None,
        max_seconds: float | None = None,
        on_evaluation: Callable[[Evaluation], None] = lambda _: None,
    ) -> None:
        self.rungs = [float(rung) for rung in rungs]
        self.objective, self.keep, self.on_evaluation = objective, keep, on_evaluation
        self.max_images, self.max_seconds = max_images, max_seconds
        self.history: list[Evaluation] = []
        self._journal = Journal(journal)
        self.num_stored = self._journal.num_stored  # when this attempt began
        self._answers: dict[tuple[float, ...], float] = {}
        self._gradients: dict[tuple[float, ...], tuple[float, ...]] = {}

    def __call__(self, weights: Sequence[float]) -> float:
        """Return the score of `weights`, infinite if they are pruned. Raises BudgetSpent."""
        asked = tuple(float(w) for w in weights)
        if asked not in self._answers:
            for fraction in self.rungs:
                score = self._evaluate(asked, fraction).score
                if fraction < 1 and not self._is_promoted(score, fraction):
                    score = math.inf
                    break
            self._answers[asked] = score
        return self._answers[asked]

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the score of `weights` on all images and its gradient. Raises BudgetSpent."""
        asked = tuple(float(w) for w in weights)
        if asked not in self._gradients:
            found = self._evaluate(asked, 1.0, with_gradient=True)
            self._answers[asked], self._gradients[asked] = found.score, found.gradient or ()
        return self._answers[asked], list(self._gradients[asked])

    @property
    def images(self) -> int:
        """Images used, in all attempts."""
        return sum(one.images for one in self.history)

    @property
    def seconds(self) -> float:
        """Seconds spent in the objective, in all attempts."""
        return sum(one.seconds for one in self.history)

    @property
    def best(self) -> Evaluation:
        """The first evaluation of lowest score on all images. WorkFailed if none is finite."""
        whole = [one for one in self.history if one.fraction == 1 and math.isfinite(one.score)]
        if not whole:
            raise WorkFailed(
                "no merge weights have a finite score on all images: "
                f"{len(self.history)} evaluations in {self._journal.path}\n"
                "check the experts for NaN, or raise max_images and max_seconds"
            )
        return min(whole, key=lambda one: one.score)

    def _is_promoted(self, score: float, fraction: float) -> bool:
        rivals = [one.score for one in self.history if one.fraction == fraction]
        places = max(1, math.floor(self.keep * len(rivals) + 1e-9))
        return math.isfinite(score) and sum(rival < score for rival in rivals) < places

    def _evaluate(
        self, weights: tuple[float, ...], fraction: float, with_gradient: bool = False
    ) -> Evaluation:
        images = self.objective.num_images(fraction)
        if self.max_images is not None and self.images + images > self.max_images:
            raise BudgetSpent(
                f"{self.images} of {self.max_images} images are used; "
                f"the next evaluation takes {images}"
            )
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            raise BudgetSpent(f"{self.seconds:.0f} of {self.max_seconds} seconds are used")
        stored = self._journal.stored(weights, fraction, images, with_gradient)
        evaluation = stored or self._measure(weights, fraction, images, with_gradient)
        self.history.append(evaluation)
        if stored is None:
            self._journal.append(evaluation)
            self.on_evaluation(evaluation)
        return evaluation

    def _measure(
        self, weights: tuple[float, ...], fraction: float, images: int, with_gradient: bool
    ) -> Evaluation:
        began, gradient = monotonic(), None
        if with_gradient:
            score, found = self.objective.gradient(list(weights))
            gradient = tuple(float(g) if math.isfinite(g) else math.nan for g in found)
        else:
            score = self.objective.value(list(weights), fraction)
        score = float(score) if math.isfinite(score) else math.inf
        return Evaluation(weights, score, fraction, images, monotonic() - began, gradient)
