"""Training curves of rows: mean and range over runs of the loss at each step.

Next to the panel of the training loss is one of the held-out loss, if it was recorded.
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

COLUMNS = 4  # panels per row of the figure
NUM_POINTS = 60  # per line: means over equal parts of the training
LOSSES = ("loss/denoising", "loss/distillation", "loss")  # the first one that was recorded is drawn
# keys of metrics.jsonl, and what is added to the names of lines
HELD_OUT = {HELD_OUT_LOSS: "", RAW_HELD_OUT_LOSS: "raw weights"}


class Curve(NamedTuple):
    """The values of one training run at its steps."""

    steps: np.ndarray
    values: np.ndarray


class RunCurves(NamedTuple):
    """The smoothed training loss of a run, and its held-out losses by the kind of weights."""

    loss: Curve | None
    held_out: dict[str, Curve]


def read_curves(run: Path) -> RunCurves:
    """Return the curves of a run; they are empty if nothing was recorded."""
    rows = read_jsonl(run / "metrics.jsonl", dict[str, float | None])
    key = next((name for name in LOSSES if any(row.get(name) is not None for row in rows)), None)
    loss = _curve(rows, key) if key is not None else None
    held_out = {name: _curve(rows, key) for key, name in HELD_OUT.items()}
    return RunCurves(
        None if loss is None else _smoothed(loss),
        {  # steps taken, 0 before the training
            name: Curve(curve.steps + 1, curve.values)
            for name, curve in held_out.items()
            if curve is not None
        },
    )


def _smoothed(curve: Curve) -> Curve:
    known = np.stack(curve, axis=1)
    parts = np.array_split(known, min(NUM_POINTS, len(known)))
    steps, values = np.array([part.mean(axis=0) for part in parts]).T
    return Curve(steps, values)


def _curve(rows: Sequence[Mapping[str, float | None]], key: str) -> Curve | None:
    points = [(row.get("step"), row.get(key)) for row in rows]
    known = [(s, v) for s, v in points if s is not None and v is not None and math.isfinite(v)]
    return Curve(*np.array(known, dtype=np.float64).T) if known else None


def add_curves(
    panels: dict[str, dict[str, list[Curve]]], title: str, part: str, curves: RunCurves
) -> None:
    """Add the training loss of a run to its row's panel, and held-out losses to the next one."""
    if curves.loss is not None:
        panels.setdefault(title, {}).setdefault(part, []).append(curves.loss)
    for weights, curve in curves.held_out.items():
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
    """Draw the mean and range of runs with equal steps; draw other runs as separate lines."""
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
    """Draw a line, or a dot for a training that recorded only its last step."""
    panel.plot(steps, values, color=colour, lw=width, marker="." if len(steps) == 1 else "")
