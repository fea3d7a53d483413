"""The common style of all figures: sizes for a column of text, colours for the colour-blind.

Verdicts are distinguished by a marker as well as by a colour.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap

COLUMN = 6.75  # inches: the text width of a two-column paper
COLOURS = {"better": "#0072b2", "worse": "#d55e00", "not resolved": "#7a7a7a"}  # Okabe and Ito
MARKS = {"better": "o", "worse": "s", "not resolved": "o"}  # the last one hollow
# colours of lines and bars for models or timestep ranges
SERIES = ("#1f4e79", "#b3541e", "#5b3a8c", "#00838f", "#8d6e00", "#ad1457", "#4e6e3a", "#37474f")
INK = "#010203"  # colour of text and axes; a page replaces it by its text colour

STYLE: dict[Any, Any] = {  # matplotlib types every key as a literal
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": f"cycler(color={list(SERIES)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "figure.titlesize": 10,
    "font.family": "sans-serif",
    "font.size": 8,
    "grid.linewidth": 0.3,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


@contextmanager
def style() -> Iterator[None]:
    """Use the common style for figures drawn inside this block."""
    with rc_context(STYLE):
        yield


def diverging(low: str, high: str) -> LinearSegmentedColormap:
    """Return a colour map from `low` over nearly white in the middle to `high`."""
    return LinearSegmentedColormap.from_list(f"{low} {high}", [low, "#f7f7f7", high])
