"""Pictures of a search: the best score so far against what it cost."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure


def best_so_far(metric: str, history: Sequence[Any]) -> Figure:
    """Return a figure of evaluations on all images and of their running minimum, against images looked at."""
    images, points = 0, list[tuple[int, float]]()
    best: list[float] = []
    for one in history:
        images += one.images
        if one.fraction == 1:
            points.append((images, one.score))
            best.append(min(one.score, best[-1] if best else one.score))
    figure = Figure(figsize=(6.4, 4.0))
    axis = figure.subplots()
    axis.plot([x for x, _ in points], [y for _, y in points], ".", color="#9a9a9a", markersize=4, label="evaluated")
    axis.step([x for x, _ in points], best, where="post", color="#1a7f37", label="best so far")
    low, high = min(best), sorted(y for _, y in points)[int(0.9 * (len(points) - 1))]
    if high > low:
        axis.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axis.set_xlabel("images looked at")
    axis.set_ylabel(metric)
    axis.set_title(f"best {min(best):.4f} after {len(history)} evaluations", fontsize=10)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
