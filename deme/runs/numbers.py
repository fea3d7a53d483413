"""The main numbers of a run, as its files say them."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from deme.runs.run_files import metrics_of, outcome_of

TAIL = 1 << 16  # bytes at the end of a training curve that are read
TRAINING_LOSS = "training loss"


class Measured(TypedDict, total=False):
    """A number: `n` images, or `n` logged steps that it is the mean of."""

    value: float
    n: int
    better: str  # lower, higher
    interval: list[float]
    reference: str
    implementation: str


NAMES = Measured.__annotations__.keys()


def main_numbers(path: Path, stage: str) -> dict[str, Measured]:
    """Return metrics by name, without their parts (loss/0); of a training its loss at the end.

    The loss of a training is the mean of the last tenth of what it has logged, of the last 64 KiB
    at most: that of a single batch says little. Raises DemeError for a damaged file.
    """
    if stage == "train":
        lines = [line for line in _curve(path) if b'"loss"' in line]  # not of a held-out loss alone
        rows = _rows(lines[-max(1, len(lines) // 10) :])
        last = [row["loss"] for row in rows if isinstance(row.get("loss"), float)]
        if not last:
            return {}
        return {TRAINING_LOSS: {"value": sum(last) / len(last), "n": len(last), "better": "lower"}}
    if stage == "improve":
        outcome = outcome_of(path)
        judged = {} if outcome is None else outcome["metrics"]
        return {name: {"value": row["after"], "better": "lower"} for name, row in judged.items()}
    found = metrics_of(path)
    return {name: _measured(metric) for name, metric in found.items() if "/" not in name}


def last_step(path: Path) -> int | None:
    """Return how many optimizer steps a training curve tells of."""
    rows = _rows(_curve(path)[-2:])  # of which a kill may have cut the last one
    steps = [row["step"] for row in rows if isinstance(row.get("step"), int)]
    return steps[-1] + 1 if steps else None


def _measured(metric: Mapping[str, Any]) -> Measured:
    return cast(Measured, {name: metric[name] for name in NAMES if name in metric})


def curve_rows(path: Path, at_end: bool = True) -> list[dict[str, Any]]:
    """Return what can be read of the last or the first 64 KiB of metrics.jsonl."""
    return _rows(_curve(path, at_end))


def _curve(path: Path, at_end: bool = True) -> list[bytes]:
    """Return the last, or the first, lines of metrics.jsonl."""
    with contextlib.suppress(OSError), open(path / "metrics.jsonl", "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL) if at_end else 0)
        lines = file.read(TAIL).splitlines()
        if size <= TAIL:
            return lines
        return lines[1:] if at_end else lines[:-1]
    return []


def _rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return what can be read of these lines."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            found += [row] if isinstance(row, dict) else []
    return found
