"""Scores of merge weights within a budget: stored ones while a killed search is replayed, then new ones."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from deme.merging.search import Objective
from deme.merging.search.journal import Evaluation, Journal
from deme.system.errors import BadConfig, WorkFailed


class BudgetSpent(Exception):
    """The next evaluation does not fit into the budget. A search ends with it and keeps what it has found."""


class Evaluations:
    """Scores of merge weights, from the journal while it lasts, then from the objective; a repeated vector costs nothing.

    `rungs`: ascending fractions of the objective's images that end in 1. A vector is scored at the first; it goes on to the next
    one if its score is finite and among the best `keep` share of all scores at this rung so far, its own included and one at
    least (asynchronous successive halving, Li et al. 2020, arXiv 1810.05934); else it is pruned, and its answer is infinite: a
    score on few images says nothing beside one on all.
    `max_images`, `max_seconds`: budget of all sittings together. `told` hears of each new evaluation after it is stored.
    Raises BadConfig for impossible settings, WorkFailed for a journal that another search wrote.
    """

    def __init__(
        self,
        objective: Objective,
        journal: Path,
        rungs: Sequence[float] = (1.0,),
        keep: float = 0.5,
        max_images: int | None = None,
        max_seconds: float | None = None,
        told: Callable[[Evaluation], None] = lambda _: None,
    ) -> None:
        if not isinstance(rungs, Sequence) or not rungs or not all(map(_is_positive, rungs)):
            raise BadConfig(
                f"rungs must be ascending fractions of the images that end in 1, got {rungs}"
            )
        self.rungs = [float(rung) for rung in rungs]
        if sorted(set(self.rungs)) != self.rungs or self.rungs[-1] != 1:
            raise BadConfig(
                f"rungs must be ascending fractions of the images that end in 1, got {self.rungs}"
            )
        if not _is_positive(keep) or keep > 1:
            raise BadConfig(f"keep must lie in (0, 1], got {keep}")
        for name, limit in (("max_images", max_images), ("max_seconds", max_seconds)):
            if limit is not None and not _is_positive(limit):
                raise BadConfig(f"{name} must be positive, or null for no limit; got {limit}")
        self.objective, self.keep, self.told = objective, keep, told
        self.max_images, self.max_seconds = max_images, max_seconds
        self.history: list[Evaluation] = []
        self._journal = Journal(journal)
        self._answers: dict[tuple[float, ...], float] = {}
        self._gradients: dict[tuple[float, ...], tuple[float, ...]] = {}

    def __call__(self, weights: Sequence[float]) -> float:
        """Return the score of `weights` at the highest rung that they reach, infinite if not finite. Raises BudgetSpent."""
        asked = tuple(float(w) for w in weights)
        if asked not in self._answers:
            for fraction in self.rungs:
                score = self._evaluate(asked, fraction).score
                if fraction < 1 and not self._goes_on(score, fraction):
                    score = math.inf
                    break
            self._answers[asked] = score
        return self._answers[asked]

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the score of `weights` on all images and its gradient, infinite and NaN if not finite. Raises BudgetSpent."""
        asked = tuple(float(w) for w in weights)
        if asked not in self._gradients:
            found = self._evaluate(asked, 1.0, with_gradient=True)
            self._answers[asked], self._gradients[asked] = found.score, found.gradient or ()
        return self._answers[asked], list(self._gradients[asked])

    @property
    def images(self) -> int:
        """Images looked at, in all sittings."""
        return sum(one.images for one in self.history)

    @property
    def seconds(self) -> float:
        """Seconds spent in the objective, in all sittings."""
        return sum(one.seconds for one in self.history)

    @property
    def best(self) -> Evaluation:
        """The first of the lowest scores on all images. Raises WorkFailed where none is finite."""
        whole = [one for one in self.history if one.fraction == 1 and math.isfinite(one.score)]
        if not whole:
            raise WorkFailed(
                f"no merge weights have a finite score on all images: {len(self.history)} evaluations in {self._journal.path}\n"
                "look for NaN in the experts, or raise the search's budget"
            )
        return min(whole, key=lambda one: one.score)

    def _goes_on(self, score: float, fraction: float) -> bool:
        rivals = [one.score for one in self.history if one.fraction == fraction]
        places = max(1, math.floor(self.keep * len(rivals) + 1e-9))
        return math.isfinite(score) and sum(rival < score for rival in rivals) < places

    def _evaluate(
        self, weights: tuple[float, ...], fraction: float, with_gradient: bool = False
    ) -> Evaluation:
        images = self.objective.num_images(fraction)
        if self.max_images is not None and self.images + images > self.max_images:
            raise BudgetSpent(
                f"{self.images} of {self.max_images} images are used, the next evaluation takes {images}"
            )
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            raise BudgetSpent(f"{self.seconds:.0f} of {self.max_seconds} seconds are used")
        stored = self._journal.stored(weights, fraction, images, with_gradient)
        evaluation = stored or self._measure(weights, fraction, images, with_gradient)
        if stored is None:
            self._journal.append(evaluation)
        self.history.append(evaluation)
        if stored is None:
            self.told(evaluation)
        return evaluation

    def _measure(
        self, weights: tuple[float, ...], fraction: float, images: int, with_gradient: bool
    ) -> Evaluation:
        began, gradient = monotonic(), None
        if with_gradient:
            score, slopes = self.objective.gradient(list(weights))
            gradient = tuple(float(slope) if math.isfinite(slope) else math.nan for slope in slopes)
        else:
            score = self.objective.value(list(weights), fraction)
        score = float(score) if math.isfinite(score) else math.inf
        return Evaluation(weights, score, fraction, images, monotonic() - began, gradient)


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
