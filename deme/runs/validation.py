"""Records of validation during training: held-out losses, and grids of samples."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from deme.runs.numbers import curve_rows

# keys of metrics.jsonl: of the averaged weights, or of the only ones that are exported
HELD_OUT_LOSS = "held_out_loss"
RAW_HELD_OUT_LOSS = "held_out_loss/raw"  # of the raw weights, if averaged ones are exported too
GRID = re.compile(r"step-([0-9]{1,10})\.png")


class HeldOut(NamedTuple):
    """The held-out loss after `steps` optimizer steps; 0 steps is before the training."""

    steps: int
    value: float


def sample_grid(run: Path, steps: int | None = None) -> Path:
    """Return the path of a run's sample grid, at its end or after `steps` optimizer steps.

    The file exists if samples were made and kept.
    """
    return run / "samples" / ("grid.png" if steps is None else f"step-{steps}.png")


def sample_grids(run: Path) -> dict[int, Path]:
    """Return the sample grids of a training run by optimizer steps, without that of its end."""
    found = {}
    with contextlib.suppress(OSError):
        for file in (run / "samples").iterdir():
            if name := GRID.fullmatch(file.name):
                found[int(name[1])] = file
    return dict(sorted(found.items()))


def held_out_ends(run: Path) -> tuple[HeldOut, HeldOut] | None:
    """Return the first and the last held-out loss of a training; None if there are none.

    Only the first and the last 64 KiB of the curve are read.
    """
    found = [
        HeldOut(row["step"] + 1, row[HELD_OUT_LOSS])
        for row in (*curve_rows(run, at_end=False), *curve_rows(run))
        if isinstance(row.get("step"), int) and isinstance(row.get(HELD_OUT_LOSS), float)
    ]
    return (found[0], found[-1]) if found else None
