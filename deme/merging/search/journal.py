"""The journal of a search: one line of JSON per evaluation, written before the score is used.

A search that was stopped is replayed from its journal.
"""

import json
import math
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from deme.system import WorkFailed, files


@dataclass(frozen=True)
class Evaluation:
    """One score of one vector, and its cost."""

    weights: tuple[float, ...]
    score: float  # infinite if the objective was not finite
    fraction: float  # of the objective's images
    images: int
    seconds: float
    gradient: tuple[float, ...] | None = None  # NaN where not finite

    def row(self) -> dict[str, object]:
        """Return the line of the journal, in which numbers that are not finite are null."""
        row = {**asdict(self), "score": _finite_or_none(self.score)}
        gradient = row.pop("gradient")
        return row if gradient is None else {**row, "gradient": [*map(_finite_or_none, gradient)]}

    @classmethod
    def of_row(cls, row: "_Row") -> "Evaluation":
        """Read a line of the journal."""
        score, found = row["score"], row.get("gradient")
        return cls(
            tuple(row["weights"]),
            math.inf if score is None else float(score),
            row["fraction"],
            row["images"],
            row["seconds"],
            None if found is None else tuple(math.nan if g is None else float(g) for g in found),
        )


class _Row(TypedDict):
    weights: list[float]
    score: float | None
    fraction: float
    images: int
    seconds: float
    gradient: NotRequired[list[float | None]]


class Journal:
    """The stored evaluations, which are returned in order, and the new ones, which are appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = files.reopen_jsonl(path, _Row)
        self._left = deque(enumerate(map(Evaluation.of_row, rows), start=1))
        self.num_stored = len(rows)

    def stored(
        self, weights: tuple[float, ...], fraction: float, images: int, with_gradient: bool
    ) -> Evaluation | None:
        """Return the next stored evaluation, None after the last one.

        Raises WorkFailed if it is not the evaluation that is asked for.
        """
        if not self._left:
            return None
        line, found = self._left.popleft()
        asked = (weights, fraction, images, with_gradient)
        if (found.weights, found.fraction, found.images, found.gradient is not None) != asked:
            raise WorkFailed(
                f"{self.path} was written by another search: its line {line} has the weights "
                f"{list(found.weights)} on {found.images} images, this search evaluates "
                f"{list(weights)} on {images} images\n"
                "delete the file and run the same command again"
            )
        return found

    def append(self, evaluation: Evaluation) -> None:
        """Store a new evaluation."""
        files.append_line(self.path, json.dumps(evaluation.row(), allow_nan=False))


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
