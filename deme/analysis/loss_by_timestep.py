"""The held-out loss of several models at every noise level, relative to the base."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from typing_extensions import TypedDict

from deme.analysis import Analysis, LoadImages, NamedModel, Parts, Study
from deme.analysis.losses import Change, HeldOut, changes, format_change, percent
from deme.diffusion import TimestepRange, uniform
from deme.models.denoiser import DenoisingModel
from deme.report.style import SERIES

LINEAR = 1.0  # percent up to which the axis is linear


class LossByTimestep(TypedDict):
    """The numbers of the figure.

    `edges` of B bins of timesteps; `base_loss` [B]; `labels` of the models;
    `changes` [models, B]; `overall` [models], over all timesteps; `experts`: the boundaries between
    ranges of those models that are routed experts.
    """

    edges: list[int]
    base_loss: list[float]
    labels: list[str]
    changes: list[list[Change]]
    overall: list[Change]
    experts: list[int]
    num_images: int


def loss_by_timestep(
    model: Callable[[], DenoisingModel],
    images: LoadImages,
    models: Callable[[], Sequence[NamedModel]],
    device: str,
    num_bins: int = 20,
    num_images: int = 1000,
    draws: int = 4,
    batch_size: int = 500,
    seed: int = 0,
) -> Study[LossByTimestep]:
    """Measure each model in `num_bins` equal bins of timesteps, on the same triples as the base.

    At most `num_images` held-out images are used, `draws` times in each bin.
    """
    named, base = models(), model()
    bins = uniform(num_bins, base.schedule.num_timesteps)
    held_out = images(base, "held_out", num_images, seed)

    def measure(parts: Parts) -> LossByTimestep:
        of = HeldOut(base, held_out, bins, draws, seed, device, batch_size)
        before = of.part(parts, "base", lambda: base)
        after = [
            of.part(parts, f"model{i}", partial(each.load, base)) for i, each in enumerate(named)
        ]
        sizes = np.array([len(item) for item in bins], dtype=np.float64)
        shares = before.new_tensor(sizes / sizes.sum())
        return {
            "edges": [0, *(item.high for item in bins)],
            "base_loss": before.mean(1).tolist(),
            "labels": [each.label for each in named],
            "changes": [changes(losses, before) for losses in after],
            "overall": [
                changes((shares @ losses)[None], (shares @ before)[None])[0] for losses in after
            ],
            "experts": sorted({item.high for each in named for item in each.ranges[:-1]}),
            "num_images": len(held_out),
        }

    passes = (len(named) + 1) * num_bins * draws * len(held_out)
    return Study(passes, base, LossByTimestep, measure, draw)


def table(numbers: LossByTimestep) -> list[list[str]]:
    """Return a line per bin of timesteps, and one of all; a column per model."""
    lines = [["timesteps", "loss of the base", *numbers["labels"]]]
    edges = numbers["edges"]
    for index, before in enumerate(numbers["base_loss"]):
        title = str(TimestepRange(edges[index], edges[index + 1]))
        row = [changes[index] for changes in numbers["changes"]]
        lines.append([title, f"{before:.4g}", *map(format_change, row)])
    overall = numbers["overall"]
    total = f"{overall[0]['base']:.4g}"
    title = str(TimestepRange(edges[0], edges[-1]))
    return [*lines, [title, total, *map(format_change, overall)]]


def draw(numbers: LossByTimestep) -> Analysis:
    """Return a line per model with its 95% band, and the loss of the base below."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.array(numbers["edges"])
    centres = (edges[:-1] + edges[1:]) / 2
    for index, (label, row) in enumerate(zip(numbers["labels"], numbers["changes"], strict=True)):
        colour = SERIES[index % len(SERIES)]
        value, low, high = np.array([percent(change) for change in row]).T
        total = percent(numbers["overall"][index])[0]
        above.plot(
            centres, value, "o-", ms=3, lw=1.4, color=colour, label=f"{label} ({total:+.2f}%)"
        )
        above.fill_between(centres, low, high, color=colour, alpha=0.18, lw=0)
    above.axhline(0, color="black", lw=0.8)
    _percent_axis(above)
    above.set_title(
        f"loss relative to the base, in {len(centres)} bins of timesteps "
        f"(bands: 95% over {numbers['num_images']:,} images, paired)",
        fontsize=9,
    )
    legend = above.legend(
        fontsize=8, title="model (over all timesteps)", title_fontsize=8, alignment="left"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    below.plot(centres, numbers["base_loss"], color="black", lw=1.2)
    below.set_yscale("log")
    below.set_ylabel("loss of the base", fontsize=9)
    below.set_xlabel("timestep t (0: least noise)", fontsize=9)
    for panel in (above, below):
        _boundaries(panel, numbers["experts"])
    return Analysis(figure, table(numbers))


def _percent_axis(panel: Axes) -> None:
    """Scale the axis of percentages so that small values are visible next to large ones."""
    label = "difference of the held-out loss, %"
    reach = max(map(abs, panel.get_ylim()))
    if reach > LINEAR:
        panel.set_yscale("symlog", linthresh=LINEAR)
        sizes = [size for size in (0.5, 1, 2, 4, 10, 20, 40, 100, 200, 400) if size <= reach]
        panel.yaxis.set_major_locator(FixedLocator([*(-size for size in sizes), 0, *sizes]))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
        panel.minorticks_off()
        label += f"\n(logarithmic beyond ±{LINEAR:g}%)"
    panel.set_ylabel(label, fontsize=9)


def _boundaries(panel: Axes, places: Sequence[int]) -> None:
    for place in places:
        panel.axvline(place, color="#9a9a9a", lw=0.8, ls=":")
    panel.tick_params(labelsize=8)
    panel.grid(axis="y", lw=0.3)
