"""Pictures of a table: one grid of samples per row from the same noise, and the loss per range of timesteps."""

import io
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from deme.report.rows import Row


def sample_grids(rows: Sequence[Row]) -> Figure:
    """Return a figure with the first images of every measured row; all models start from the same noise."""
    shown = [(row.label, row.grid) for row in rows if row.grid is not None]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.9 * columns, 3.2 * lines))
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (label, grid) in zip(axes.flat, shown, strict=False):
        with Image.open(grid) as image:
            axis.imshow(image.copy(), cmap="gray", interpolation="nearest")
        axis.set_title(textwrap.fill(label, 36), fontsize=8)
    figure.tight_layout()
    return figure


def loss_per_range(rows: Sequence[Row]) -> Figure:
    """Return a figure of each row's held-out loss relative to the baseline, per range, with 95% intervals."""
    names = sorted({name for row in rows for name in row.numbers if name.startswith("loss/")})
    shown = [row for row in rows if any(name in row.numbers and row.numbers[name].difference for name in names)]
    figure = Figure(figsize=(8, 5))
    axis = figure.subplots()
    width = 0.8 / max(1, len(shown))
    for index, row in enumerate(shown):
        differences = [row.numbers[name].difference for name in names]
        bases = [row.numbers[name].mean - d.value if d else 1.0 for name, d in zip(names, differences, strict=True)]
        heights = [100 * d.value / b if d else 0.0 for d, b in zip(differences, bases, strict=True)]
        errors = [100 * (d.high - d.value) / b if d else 0.0 for d, b in zip(differences, bases, strict=True)]
        places = [i + (index - (len(shown) - 1) / 2) * width for i in range(len(names))]
        axis.bar(places, heights, width, yerr=errors, label=row.label, error_kw={"lw": 0.8})
    axis.axhline(0, color="black", lw=0.8)
    labels = [
        str(next(row.numbers[name].about.get("range", name) for row in rows if name in row.numbers)) for name in names
    ]
    axis.set_xticks(range(len(names)), [f"t in {label}" for label in labels])
    axis.set_ylabel("held-out loss, change to the baseline (%)")
    if shown:
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    figure.tight_layout()
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
