"""Curves of trainings: a row's losses over the steps, mean and range over its runs.

Beside a panel of the training loss stands one of the held-out loss, if it was recorded.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deme.report.style import COLUMN, SERIES, style
from deme.runs import HELD_OUT_LOSS, RAW_HELD_OUT_LOSS
from deme.system import read_jsonl

COLUMNS = 4  # panels in a line
NUM_POINTS = 60  # of a line: means over as many parts of the training
LOSSES = ("loss/denoising", "loss/distillation", "loss")  # the first that a training has
HELD_OUT = {HELD_OUT_LOSS: "", RAW_HELD_OUT_LOSS: "last weights"}  # keys and what is added to names


class Curve(NamedTuple):
    """The values of one training run at its steps."""

    steps: np.ndarray
    values: np.ndarray


def loss_curve(run: Path) -> Curve | None:
    """Return the loss of a training run, smoothed; None for a run without a record of it."""
    rows = _rows(run)
    key = next((name for name in LOSSES if any(row.get(name) is not None for row in rows)), None)
    curve = _curve(rows, key) if key is not None else None
    if curve is None:
        return None
    known = np.stack(curve, axis=1)
    parts = np.array_split(known, min(NUM_POINTS, len(known)))
    steps, values = np.array([part.mean(axis=0) for part in parts]).T
    return Curve(steps, values)


def held_out_curves(run: Path) -> dict[str, Curve]:
    """Return what a training run recorded of held-out images, by the weights; {} for nothing."""
    rows = _rows(run)
    found = {name: _curve(rows, key) for key, name in HELD_OUT.items()}
    return {
        name: Curve(curve.steps + 1, curve.values)  # steps taken, 0 before the training
        for name, curve in found.items()
        if curve is not None
    }


def _rows(run: Path) -> list[dict[str, float | None]]:
    file = run / "metrics.jsonl"
    return read_jsonl(file, dict[str, float | None]) if file.is_file() else []


def _curve(rows: Sequence[Mapping[str, float | None]], key: str) -> Curve | None:
    points = [(row.get("step"), row.get(key)) for row in rows]
    known = [(s, v) for s, v in points if s is not None and v is not None and math.isfinite(v)]
    return Curve(*np.array(known, dtype=np.float64).T) if known else None


def add_held_out(
    panels: dict[str, dict[str, list[Curve]]], title: str, part: str, run: Path
) -> None:
    """Add the held-out losses of a run to those of its row, in a panel beside that of its loss."""
    for weights, curve in held_out_curves(run).items():
        panel = panels.setdefault(f"{title}: held-out loss", {})
        panel.setdefault(", ".join(filter(None, (part, weights))), []).append(curve)


Panels = Mapping[str, Mapping[str, Sequence[Curve]]]  # row -> part (an expert, or "") -> its runs


@style()
def training_curves(panels: Panels) -> Figure:
    """Return a figure with a panel per row and a line per expert: mean and range over seeds."""
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(COLUMN, 2.2 * columns), 1.75 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(name for parts in panels.values() for name in parts if name))
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}
    for panel, (row, parts) in zip(axes, panels.items(), strict=False):
        for name, curves in parts.items():
            _draw(panel, curves, colours.get(name, SERIES[0]))
        panel.set_title(textwrap.fill(row, 34), fontsize=7.5, parse_math=False, loc="left")
        panel.yaxis.set_major_locator(MaxNLocator(3))
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.grid(axis="y")
    for panel in axes[len(panels) :]:
        panel.axis("off")
    if names:
        handles = [Line2D([], [], color=colours[name], label=name) for name in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(names)))
    figure.supxlabel("training step", fontsize=8)
    return figure


def _draw(panel: Axes, curves: Sequence[Curve], colour: str) -> None:
    """Draw the mean of runs of equal steps, and the range that they span; others by themselves."""
    steps = curves[0].steps
    if not all(np.array_equal(curve.steps, steps) for curve in curves):
        for curve in curves:
            _line(panel, curve.steps, curve.values, colour, 0.8)
        return
    values = np.stack([curve.values for curve in curves])
    _line(panel, steps, values.mean(axis=0), colour, 1.2)
    if len(values) > 1:
        panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)


def _line(panel: Axes, steps: np.ndarray, values: np.ndarray, colour: str, width: float) -> None:
    """Draw a line, or a dot of a training that recorded nothing but its last step."""
    panel.plot(steps, values, color=colour, lw=width, marker="." if len(steps) == 1 else "")
