"""The main numbers of a run, read from its files."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from deme.runs.run_files import metrics_of, outcome_of

TAIL = 1 << 16  # bytes at either end of a training curve that are read
TRAINING_LOSS = "training loss"


class Measured(TypedDict, total=False):
    """A number; `n`: the number of images, or of logged steps that it is the mean of."""

    value: float
    n: int
    better: str  # lower, higher
    interval: list[float]
    reference: str
    implementation: str


NAMES = Measured.__annotations__.keys()


def main_numbers(path: Path, stage: str) -> dict[str, Measured]:
    """Return the metrics of a run by name, without parts such as loss/0; of a training its loss.

    That is the mean of the last tenth of the logged steps (within the last 64 KiB of the curve),
    because the loss of a single batch is too noisy. Raises DemeError for a damaged file.
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
        metrics = {} if outcome is None else outcome["metrics"]
        return {name: {"value": row["after"], "better": "lower"} for name, row in metrics.items()}
    found = metrics_of(path)
    return {name: _measured(metric) for name, metric in found.items() if "/" not in name}


def last_step(path: Path) -> int | None:
    """Return the number of optimizer steps in a training curve, None without any."""
    rows = _rows(_curve(path)[-2:])  # of which a kill may have cut the last one
    steps = [row["step"] for row in rows if isinstance(row.get("step"), int)]
    return steps[-1] + 1 if steps else None


def _measured(metric: Mapping[str, Any]) -> Measured:
    return cast(Measured, {name: metric[name] for name in NAMES if name in metric})


def curve_rows(path: Path, at_end: bool = True) -> list[dict[str, Any]]:
    """Return the readable rows in the last or first 64 KiB of metrics.jsonl."""
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
    """Return the readable rows among these lines."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            found += [row] if isinstance(row, dict) else []
    return found
