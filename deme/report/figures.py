"""Pictures of a table: samples of every row, paired differences, the loss per range."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deme.report.rows import Row
from deme.system import WorkFailed, first_line

FAR = 5  # times the median reach of the intervals in a panel
COLOURS = {"better": "#1a7f37", "worse": "#c62828", "not resolved": "#7a7a7a"}
# of lines and bars that stand for models or ranges of timesteps
SERIES = ("#1f4e79", "#b3541e", "#5b3a8c", "#00838f", "#8d6e00", "#ad1457", "#4e6e3a", "#37474f")


def diverging(low: str, high: str) -> LinearSegmentedColormap:
    """Return a map of colours from one over almost white, in the middle, to another."""
    return LinearSegmentedColormap.from_list(f"{low} {high}", [low, "#f7f7f7", high])


def sample_grids(rows: Sequence[Row]) -> Figure:
    """Return a figure with the first images of every measured row, all from the same noise."""
    shown = []
    for row in rows:
        if row.grid is not None:
            shown.append((row.label, _picture(row.grid)))
    return labelled(shown)


def _picture(file: Path) -> Image.Image:
    """Return the picture in a run directory. Raises WorkFailed unless it is a PNG."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            return image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise WorkFailed(
            f"{file} is not a PNG that can be read: {first_line(error)}\n"
            "move it away: the figure is drawn without it"
        ) from error


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


def differences(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> Figure:
    """Return a figure of every row's paired difference to the baseline, with 95% intervals.

    It has a panel per metric that has any.
    """
    numbers = [(metric, n) for row in rows for metric, n in row.numbers.items()]
    paired = {metric for metric, number in numbers if number.difference}
    higher = {metric for metric, number in numbers if number.about.get("better") == "higher"}
    titles = {
        metric: f"{metric}, difference to {baseline}"
        + ("\n(higher is better)" if metric in higher else "")
        for metric in metrics
        if metric in paired
    }
    return _forest(rows, titles)


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
    size = (3.2 + 2.6 * len(titles), 1.4 + 0.32 * len(shown))
    figure = Figure(figsize=size, layout="tight")
    alone = False
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        intervals = {}
        for place, row in enumerate(shown):
            if (number := row.numbers.get(name)) and (d := number.difference):
                alone |= d.of_one_model
                scale = 100 / (number.mean - d.value) if percent else 1.0
                low, value, high = (scale * bound for bound in (d.low, d.value, d.high))
                intervals[place] = (low, value, high, COLOURS[d.verdict])
        _draw_intervals(panel, intervals)
        panel.set_title(title, fontsize=9, parse_math=False)
    panels[0].set_yticks(
        range(len(shown)),
        [textwrap.fill(row.label, 44) for row in shown],
        fontsize=8,
        parse_math=False,
    )
    panels[0].invert_yaxis()
    figure.supxlabel(
        "95% intervals; lower is better where no panel says otherwise: "
        "green better, red worse, grey not resolved"
        + ("\none finetuning seed: about these weights, not about the method" if alone else ""),
        fontsize=8,
    )
    return figure


def _draw_intervals(panel: Axes, intervals: Mapping[int, tuple[float, float, float, str]]) -> None:
    """Draw low, value, high per line.

    A value far beyond most others becomes an arrow at the edge with its number.
    """
    if not intervals:
        return
    reach = sorted(max(abs(low), abs(high)) for low, _, high, _ in intervals.values())
    edge = min(reach[-1], FAR * reach[len(reach) // 2])
    for place, (low, value, high, colour) in intervals.items():
        if abs(value) > edge:
            side = 1 if value > 0 else -1
            panel.plot(side * edge, place, ">" if side > 0 else "<", color=colour, ms=6)
            panel.annotate(
                f"{value:+.3g}", (side * edge, place), (-side * 8, 0),
                textcoords="offset points", fontsize=8, va="center", color=colour,
                ha="right" if side > 0 else "left",
            )  # fmt: skip
            continue
        panel.plot([max(low, -edge), min(high, edge)], [place, place], color=colour, lw=1.6)
        panel.plot(value, place, "o", color=colour, ms=4)
    panel.axvline(0, color="black", lw=0.8)
    panel.tick_params(labelsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.grid(axis="x", lw=0.3)


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
