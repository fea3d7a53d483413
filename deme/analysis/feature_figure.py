"""The figure of `feature_change`: a panel per expert with a bar per block."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import TypedDict

from deme.analysis import Analysis
from deme.diffusion import TimestepRange
from deme.report.style import SERIES

PARTS = {  # of a change of features, with their colours
    "per channel, the same everywhere": SERIES[0],
    "per place, the same in all channels": SERIES[1],
    "both": "#c9c9c9",
}


class BlockChange(TypedDict):
    """How the output of a block changes.

    `relative`: length of the change over that of the output. `shares` [3] of its square: the mean
    over places (per channel), what is left of the mean over channels (per place), and the rest,
    with bootstrap `standard_errors` over images; `chance`: those of independent noise. `explained`:
    the share that one matrix over the channels explains on other images.
    """

    block: str
    channels: int
    places: int
    relative: float
    shares: list[float]
    standard_errors: list[float]
    chance: list[float]
    explained: float


class FeatureChange(TypedDict):
    """The numbers of the figure: `changes` [experts, blocks]."""

    ranges: list[list[int]]
    num_images: int
    changes: list[list[BlockChange]]


def table(numbers: FeatureChange) -> list[list[str]]:
    """Return a line per expert and block."""
    lines = [
        ["expert of", "block", "channels x places", "relative change", "per channel", "by chance",
         "per place", "by chance", "both", "by a projection"]
    ]  # fmt: skip
    for (low, high), row in zip(numbers["ranges"], numbers["changes"], strict=True):
        for change in row:
            (channel, place, both), chance = change["shares"], change["chance"]
            shares = (channel, chance[0], place, chance[1], both, change["explained"])
            shape = f"{change['channels']} x {change['places']}"
            lines.append(
                [
                    str(TimestepRange(low, high)),
                    change["block"],
                    shape,
                    f"{change['relative']:.2%}",
                    *(f"{share:.1%}" for share in shares),
                ]
            )
    return lines


def draw(numbers: FeatureChange) -> Analysis:
    """Return stacked bars of the parts of every change, with what chance would give."""
    ranges, rows = numbers["ranges"], numbers["changes"]
    figure = Figure(
        figsize=(1.3 + 2.9 * len(ranges), 1.7 + 0.5 * len(rows[0])), layout="constrained"
    )
    panels = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    for panel, (low, high), row in zip(panels, ranges, rows, strict=True):
        _bars(panel, row)
        panel.set_title(f"expert of {TimestepRange(low, high)}", fontsize=9)
    panels[0].set_yticks(range(len(rows[0])), [c["block"] for c in rows[0]], fontsize=8)
    panels[0].invert_yaxis()
    drawn = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    labels = [*PARTS, *(label for label in drawn if label not in PARTS)]
    figure.legend(
        [drawn[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=5,
        fontsize=8,
        frameon=False,
    )
    figure.suptitle(
        "change of each block's output from the base to the expert: shares of its square "
        f"({numbers['num_images']:,} images; percentages: relative size of the change)",
        fontsize=9,
    )
    return Analysis(figure, table(numbers))


def _bars(panel: Axes, row: list[BlockChange]) -> None:
    places = np.arange(len(row))
    start = np.zeros(len(row))
    for index, (name, colour) in enumerate(PARTS.items()):
        share = np.array([change["shares"][index] for change in row])
        panel.barh(places, share, left=start, height=0.62, color=colour, label=name)
        start += share
    first = [change["chance"][0] for change in row]
    second = [sum(change["chance"][:2]) for change in row]
    for values, label in (
        (first, "where the first two end if the change is noise"),
        (second, None),
    ):
        panel.plot(values, places, "|", color="black", ms=17, mew=1.1, label=label)
    explained = [max(0.0, change["explained"]) for change in row]
    panel.plot(explained, places, "D", color="white", mec="black", ms=5,
               label="explained by a channel projection")  # fmt: skip
    for place, change in enumerate(row):
        panel.text(1.02, place, f"{change['relative']:.1%}", fontsize=7.5, va="center")
    panel.set_xlim(0, 1.17)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"], fontsize=7.5)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
