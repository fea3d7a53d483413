"""Pictures of a search: the best score so far against what it cost, and planes of the landscape
that it went through."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from deme.merging.search.journal import Evaluation
from deme.report.style import COLOURS, style


@style()
def best_so_far(metric: str, history: Sequence[Evaluation]) -> Figure:
    """Return a figure of finite scores on all images and of their running minimum, against images
    looked at."""
    costs = itertools.accumulate(one.images for one in history)
    points = [
        (images, one.score)
        for images, one in zip(costs, history, strict=True)
        if one.fraction == 1 and math.isfinite(one.score)
    ]
    images, scores = zip(*points, strict=True)
    best = list(itertools.accumulate(scores, min))
    figure = Figure(figsize=(6.4, 4.0), layout="tight")
    axis = figure.subplots()
    axis.plot(images, scores, ".", color=COLOURS["not resolved"], markersize=4, label="evaluated")
    axis.step(images, best, where="post", color=COLOURS["better"], label="best so far")
    low, high = min(best), sorted(scores)[int(0.9 * (len(scores) - 1))]
    if high > low:
        axis.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axis.set(xlabel="images looked at", ylabel=metric)
    axis.set_title(f"best {min(best):.4f} after {len(history)} evaluations", fontsize=10)
    axis.legend(fontsize=8)
    return figure


@dataclass(frozen=True)
class Plane:
    """Scores where only the weights of two experts differ from the best vector: [y, x] over the
    values of `axis`."""

    experts: tuple[int, int]
    axis: Sequence[float]
    scores: Sequence[Sequence[float]]
    best: tuple[float, float]


@style()
def landscape(metric: str, planes: Sequence[Plane]) -> Figure:
    """Return a figure with contours of every plane on one scale, up to the median score; the
    paper's Figure 6a."""
    columns = min(3, len(planes))
    lines = -(-len(planes) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.9, 3.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    for panel in panels.flat[len(planes) :]:
        panel.axis("off")
    known = sorted(
        score for plane in planes for row in plane.scores for score in row if score < float("inf")
    )
    low, high = (known[0], known[len(known) // 2]) if known else (0.0, 0.0)
    levels = [low + (high - low) * i / 12 for i in range(13)] if high > low else None
    drawn = None
    for panel, plane in zip(panels.flat, planes, strict=False):
        drawn = panel.contourf(
            plane.axis, plane.axis, plane.scores, levels=levels, extend="max", cmap="viridis"
        )
        panel.plot(*plane.best, "*", color=COLOURS["worse"], markersize=11)
        panel.set_xlabel(f"weight of expert {plane.experts[0]}", fontsize=8)
        panel.set_ylabel(f"weight of expert {plane.experts[1]}", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_aspect("equal")
    if drawn is not None:
        figure.colorbar(drawn, ax=panels, label=metric, shrink=0.8)
    figure.suptitle("through the best weights (star); other weights as there", fontsize=10)
    return figure
