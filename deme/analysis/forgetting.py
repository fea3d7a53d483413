"""What experts forget: the held-out loss of expert i in range j, compared with the base's."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from typing_extensions import TypedDict

from deme.analysis import Analysis, Expert, LoadImages, Parts, Study
from deme.analysis.losses import Change, HeldOut, changes, format_change, percent
from deme.diffusion import TimestepRange
from deme.models.denoiser import DenoisingModel
from deme.report.style import COLOURS, diverging

CHANGE = diverging(COLOURS["better"], COLOURS["worse"])


class Forgetting(TypedDict):
    """The numbers of the figure: `changes` [experts, ranges], expert i being that of range i."""

    ranges: list[list[int]]
    num_images: int
    draws: int
    changes: list[list[Change]]


def forgetting(
    model: Callable[[], DenoisingModel],
    images: LoadImages,
    experts: Callable[[], Sequence[Expert]],
    device: str,
    num_images: int = 1000,
    draws: int = 8,
    batch_size: int = 500,
    seed: int = 0,
) -> Study[Forgetting]:
    """Measure every expert in every expert's range, on the same triples as the base.

    At most `num_images` held-out images are used, `draws` times in each range.
    """
    found, base = experts(), model()
    ranges = [expert.range for expert in found]
    held_out = images(base, "held_out", num_images, seed)

    def measure(parts: Parts) -> Forgetting:
        of = HeldOut(base, held_out, ranges, draws, seed, device, batch_size)
        before = of.part(parts, "base", lambda: base)
        after = [of.part(parts, f"expert{i}", each.load) for i, each in enumerate(found)]
        return {
            "ranges": [[item.low, item.high] for item in ranges],
            "num_images": len(held_out),
            "draws": draws,
            "changes": [changes(losses, before) for losses in after],
        }

    passes = (len(found) + 1) * len(ranges) * draws * len(held_out)
    return Study(passes, base, Forgetting, measure, draw)


def _titles(numbers: Forgetting) -> list[str]:
    return [str(TimestepRange(low, high)) for low, high in numbers["ranges"]]


def table(numbers: Forgetting) -> list[list[str]]:
    """Return a line per expert and a column per range."""
    titles = _titles(numbers)
    lines = [["loss minus base's (95% interval)", *(f"at t in {title}" for title in titles)]]
    for title, row in zip(titles, numbers["changes"], strict=True):
        lines.append([f"expert of {title}", *map(format_change, row)])
    return lines


def draw(numbers: Forgetting) -> Analysis:
    """Return the matrix, blue where the expert is better than the base and orange where worse."""
    titles = _titles(numbers)
    values = np.array([[percent(change) for change in row] for row in numbers["changes"]])
    reach = max(np.abs(values[..., 0]).max(), 1e-6)
    figure = Figure(
        figsize=(2.2 + 1.3 * len(titles), 1.5 + 0.75 * len(titles)), layout="constrained"
    )
    panel = figure.subplots()
    norm = SymLogNorm(min(1.0, reach), vmin=-reach, vmax=reach)
    picture = panel.imshow(values[..., 0], cmap=CHANGE, norm=norm, aspect="auto")
    for (i, j), change in np.ndenumerate(np.array(numbers["changes"], dtype=object)):
        value, low, high = values[i, j]
        dark = abs(norm(value) - 0.5) > 0.33
        weight = "normal" if change["verdict"] == "not resolved" else "bold"
        colour = "white" if dark else "black"
        panel.text(j, i - 0.1, f"{value:+.2f}%", ha="center", va="bottom", fontsize=9,
                   color=colour, fontweight=weight)  # fmt: skip
        panel.text(j, i + 0.05, f"[{low:+.2f}, {high:+.2f}]", ha="center", va="top", fontsize=7,
                   color=colour)  # fmt: skip
    places = range(len(titles))
    panel.set_xticks(places, titles, fontsize=8)
    panel.set_yticks(places, titles, fontsize=8)
    panel.set_xlabel("loss at t in", fontsize=9)
    panel.set_ylabel("expert of", fontsize=9)
    panel.set_title(
        f"held-out loss of expert i in range j, difference to the base\n"
        f"(95% intervals over {numbers['num_images']:,} images; bold: resolved)",
        fontsize=9,
    )
    bar = figure.colorbar(picture, ax=panel, shrink=0.9)
    ticks = [t for t in (1, 10, 100, 1000) if t <= reach] or [reach]
    bar.ax.yaxis.set_major_locator(FixedLocator([*(-t for t in reversed(ticks)), 0, *ticks]))
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:+.3g}%" if value else "0")
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    return Analysis(figure, table(numbers))
