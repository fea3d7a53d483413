"""Pictures of a table: samples of every row, paired differences, the loss per range."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deme.report.rows import Row
from deme.report.style import COLOURS, COLUMN, INK, MARKS, style
from deme.system import WorkFailed, first_line

FAR = 5  # times the median reach of the intervals in a panel


@style()
def sample_grids(rows: Sequence[Row]) -> Figure:
    """Return a figure with the first images of every measured row, all from the same noise."""
    shown = []
    for row in rows:
        if row.grid is not None:
            shown.append((row.label, picture(row.grid)))
    return labelled(shown)


def picture(file: Path) -> Image.Image:
    """Return the picture in a run directory. Raises WorkFailed unless it is a PNG."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            return image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise WorkFailed(
            f"{file} is not a PNG that can be read: {first_line(error)}\n"
            "move it away: the figure is drawn without it"
        ) from error


@style()
def labelled(shown: Sequence[tuple[str, Image.Image]]) -> Figure:
    """Return a figure of pictures under their labels, four to a line."""
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.9 * columns, 3.2 * lines), layout="tight")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (label, image) in zip(axes.flat, shown, strict=False):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        axis.set_title(textwrap.fill(label, 36), fontsize=8, parse_math=False)
    return figure


@style()
def differences(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> Figure:
    """Return a figure of every row's paired difference to the baseline, with 95% intervals.

    It has a panel per metric that has any.
    """
    numbers = [(metric, n) for row in rows for metric, n in row.numbers.items()]
    paired = {metric for metric, number in numbers if number.difference}
    higher = {metric for metric, number in numbers if number.about.get("better") == "higher"}
    titles = {
        metric: f"{metric}\ndifference to {baseline}"
        + (" (higher is better)" if metric in higher else "")
        for metric in metrics
        if metric in paired
    }
    return _forest(rows, titles)


@style()
def loss_per_range(rows: Sequence[Row]) -> Figure:
    """Return a figure of each row's held-out loss relative to the baseline, a panel per range.

    Intervals are 95%.
    """
    names = sorted({name for row in rows for name in row.numbers if name.startswith("loss/")})
    where = {
        n: next(row.numbers[n].about.get("range", n) for row in rows if n in row.numbers)
        for n in names
    }
    return _forest(
        rows, {name: f"held-out loss (%)\nt in {where[name]}" for name in names}, percent=True
    )


def _forest(rows: Sequence[Row], titles: Mapping[str, str], percent: bool = False) -> Figure:
    shown = [
        row
        for row in rows
        if any(name in row.numbers and row.numbers[name].difference for name in titles)
    ]
    size = (max(COLUMN, 2.9 + 2.3 * len(titles)), 1.1 + 0.27 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    alone = False
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        intervals = {}
        for place, row in enumerate(shown):
            if (number := row.numbers.get(name)) and (d := number.difference):
                alone |= d.of_one_model
                scale = 100 / (number.mean - d.value) if percent else 1.0
                low, value, high = (scale * bound for bound in (d.low, d.value, d.high))
                intervals[place] = (low, value, high, d.verdict)
        _draw_intervals(panel, intervals)
        panel.set_title(title, parse_math=False)
    panels[0].set_yticks(
        range(len(shown)), [textwrap.fill(row.label, 44) for row in shown], parse_math=False
    )
    panels[0].invert_yaxis()
    figure.legend(handles=_verdict_marks(), loc="outside upper center", ncols=len(COLOURS))
    figure.supxlabel(
        "95% intervals; lower is better where no panel says otherwise"
        + ("\none finetuning seed: about these weights, not about the method" if alone else ""),
        fontsize=8,
    )
    return figure


def edge_of(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the end of an axis of intervals around 0; outliers may be beyond it."""
    reach = sorted(max(abs(low), abs(high)) for low, high in intervals)
    return max((r for r in reach if r <= FAR * reach[len(reach) // 2]), default=0.0)


def _mark(verdict: str) -> dict[str, Any]:
    """Return the marker of a verdict: its shape as well as its colour."""
    colour = COLOURS[verdict]
    face = "none" if verdict == "not resolved" else colour
    return {"color": colour, "marker": MARKS[verdict], "markerfacecolor": face, "markersize": 4}


def _verdict_marks() -> list[Line2D]:
    return [Line2D([], [], lw=1.4, label=verdict, **_mark(verdict)) for verdict in COLOURS]


def _draw_intervals(panel: Axes, intervals: Mapping[int, tuple[float, float, float, str]]) -> None:
    """Draw low, value and high of each line.

    A value far beyond most others is drawn as an arrow at the edge with its numbers.
    """
    if not intervals:
        return
    edge = edge_of((low, high) for low, _, high, _ in intervals.values())
    for place, (low, value, high, verdict) in intervals.items():
        mark = _mark(verdict)
        if abs(value) > edge:
            side = 1 if value > 0 else -1
            panel.plot(side * edge, place, **{**mark, "marker": ">" if side > 0 else "<"})
            panel.annotate(
                f"{value:+.3g} [{low:+.3g}, {high:+.3g}]".replace("-", "\N{MINUS SIGN}"),
                (side * edge, place), (-side * 8, 0), textcoords="offset points", va="center",
                color=mark["color"], ha="right" if side > 0 else "left", fontsize=7,
            )  # fmt: skip
            continue
        ends = [max(low, -edge), min(high, edge)]
        panel.plot(ends, [place, place], color=mark["color"], lw=1.4)
        panel.plot(value, place, **mark)
    panel.axvline(0, color=INK, lw=0.7)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.grid(axis="x")


def png(figure: Figure) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "deme"})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """Return the figure as SVG bytes, which depend on the figure alone; texts stay texts."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "deme", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Creator": "deme", "Date": None})
    return buffer.getvalue()


def is_own(file: Path) -> bool:
    """Whether `png` made a file."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            return image.info.get("Software") == "deme"
    except (OSError, ValueError):  # no PNG, or one that is cut
        return False
