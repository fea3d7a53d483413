"""The one style of all figures: sizes that fit a column of text, colours that the colour-blind can
tell apart, and a mark as well as a colour for each verdict."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap

COLUMN = 6.75  # inches: the text width of a two-column paper
COLOURS = {"better": "#0072b2", "worse": "#d55e00", "not resolved": "#7a7a7a"}  # Okabe and Ito
MARKS = {"better": "o", "worse": "s", "not resolved": "o"}  # the last one hollow
# of lines and bars that stand for models or ranges of timesteps
SERIES = ("#1f4e79", "#b3541e", "#5b3a8c", "#00838f", "#8d6e00", "#ad1457", "#4e6e3a", "#37474f")
INK = "#010203"  # of text and axes; a page replaces it by the colour of its text

STYLE: dict[Any, Any] = {  # matplotlib names every key as a type
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
    """Draw with the style of all figures inside this block."""
    with rc_context(STYLE):
        yield


def diverging(low: str, high: str) -> LinearSegmentedColormap:
    """Return a map of colours from one over almost white, in the middle, to another."""
    return LinearSegmentedColormap.from_list(f"{low} {high}", [low, "#f7f7f7", high])
