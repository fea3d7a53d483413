"""The journal of a search: one line of JSON per evaluation, written before the score is used and read again in order."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deme.system import files
from deme.system.errors import WorkFailed


@dataclass(frozen=True)
class Evaluation:
    """One score of one vector, and what it cost."""

    weights: tuple[float, ...]
    score: float  # infinite where the objective was not finite
    fraction: float  # of the objective's images
    images: int
    seconds: float
    gradient: tuple[float, ...] | None = None  # NaN where it was not finite

    def row(self) -> dict[str, Any]:
        """Return the line of the journal; JSON has no numbers that are not finite, they become null."""
        row = {
            "weights": list(self.weights),
            "score": _finite_or_none(self.score),
            "fraction": self.fraction,
            "images": self.images,
            "seconds": self.seconds,
        }
        return (
            row
            if self.gradient is None
            else {**row, "gradient": [_finite_or_none(g) for g in self.gradient]}
        )

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "Evaluation":
        """Read a line of the journal."""
        gradient = (
            tuple(math.nan if g is None else float(g) for g in row["gradient"])
            if "gradient" in row
            else None
        )
        score = math.inf if row["score"] is None else float(row["score"])
        return cls(
            tuple(row["weights"]), score, row["fraction"], row["images"], row["seconds"], gradient
        )


class Journal:
    """Hands out the stored evaluations one by one, then takes new ones. Raises WorkFailed for lines of another search."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            rows = files.read_jsonl(path)
            self._stored = [Evaluation.of_row(row) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise WorkFailed(
                f"{path} is damaged or of another search\ndelete it and run again"
            ) from error
        files.write_jsonl(path, rows)  # without a last line that a kill has cut
        self._used = 0

    def stored(
        self, weights: tuple[float, ...], fraction: float, images: int, with_gradient: bool
    ) -> Evaluation | None:
        """Return the next stored evaluation, which must be the one asked for; None when all are used."""
        if self._used == len(self._stored):
            return None
        found = self._stored[self._used]
        self._used += 1
        asked = (weights, fraction, images, with_gradient)
        if (found.weights, found.fraction, found.images, found.gradient is not None) != asked:
            raise WorkFailed(
                f"{self.path} is of another search: its line {self._used} is {_told(found.weights, found.images)}, "
                f"this search asks for {_told(weights, images)}\ndelete it and run again"
            )
        return found

    def append(self, evaluation: Evaluation) -> None:
        """Store a new evaluation."""
        files.append_line(self.path, json.dumps(evaluation.row(), allow_nan=False))


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _told(weights: tuple[float, ...], images: int) -> str:
    return f"{list(weights)} on {images} images"
