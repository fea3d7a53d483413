"""The figure of `loss_landscape`: contours of every plane, and the curvature at the base."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from scipy.interpolate import PchipInterpolator
from typing_extensions import TypedDict

from deme.analysis import Analysis
from deme.diffusion import TimestepRange
from deme.report.style import COLOURS, SERIES, diverging

CHANGE = diverging(COLOURS["better"], COLOURS["worse"])
MARKERS = {"expert": "^", "uniform merge": "D", "sum": "s"}
SHADE = 0.34  # how far colours go from the middle to the ends of CHANGE, at most
FINER = 3  # points drawn between two that are measured
EDGE, ROOM = 0.1, 0.14  # of a panel's width: labels keep away from its edge, from one another


class PlaneNumbers(TypedDict):
    """A plane through the base, which is at (0, 0): losses [y, x] over `axis`.

    `of`: the timesteps low <= t < high whose loss it is; `marks`: points by name.
    """

    of: list[int]
    x: str
    y: str
    axis: list[float]
    losses: list[list[float]]
    marks: dict[str, list[float]]


class Curvature(TypedDict):
    """Slope and curvature of the loss at the base, in the timesteps `of`.

    `sharpness`: the Hessian's eigenvalue of the largest magnitude, `sharpness_error`: its change in
    the last iteration. `random` [directions]: d H d along filter-normalised random directions d.
    """

    of: list[int]
    loss: float
    gradient_norm: float
    sharpness: float
    sharpness_error: float
    random: list[float]


class LandscapeNumbers(TypedDict):
    """The numbers of the figure."""

    directions: str
    planes: list[PlaneNumbers]
    curvature: list[Curvature]


def table(numbers: LandscapeNumbers) -> list[list[str]]:
    """Return a line of slope and curvature for all timesteps and for every range."""
    lines = [
        ["timesteps", "loss", "gradient norm", "sharpness", "of the last iteration",
         "curvature along random directions", "standard deviation"]
    ]  # fmt: skip
    for each in numbers["curvature"]:
        along = np.array(each["random"])
        lines.append(
            [
                str(TimestepRange(*each["of"])),
                f"{each['loss']:.4g}",
                f"{each['gradient_norm']:.3g}",
                f"{each['sharpness']:.4g}",
                f"{each['sharpness_error']:.2g}",
                f"{along.mean():.4g}",
                f"{along.std(ddof=1):.2g}" if len(along) > 1 else "--",
            ]
        )
    return lines


def draw(numbers: LandscapeNumbers) -> Analysis:
    """Return a column per plane: contours above, cuts through the base below."""
    planes = numbers["planes"]
    curvature = {tuple(each["of"]): each for each in numbers["curvature"]}
    figure = Figure(figsize=(2.75 * len(planes) + 0.5, 6.1), layout="constrained")
    above, below = figure.subplots(2, len(planes), squeeze=False, height_ratios=[1.3, 1])
    for column, plane in enumerate(planes):
        at = curvature[tuple(plane["of"])]
        change = 100 * (np.array(plane["losses"]) / at["loss"] - 1)
        _contours(above[column], plane, change)
        _cuts(below[column], plane, change)
        above[column].set_title(f"loss at t in {TimestepRange(*plane['of'])}", fontsize=9)
        below[column].set_title(
            f"gradient norm {at['gradient_norm']:.2g}, sharpness {at['sharpness']:.3g}", fontsize=8
        )
    above[0].set_ylabel(planes[0]["y"], fontsize=8)
    below[0].set_ylabel("change of the loss, %", fontsize=8)
    points = len(planes[0]["axis"])
    figure.suptitle(
        "change of the held-out loss from that of the base, in percent "
        f"({points} x {points} points, interpolated in between; each panel has colours of its own)",
        fontsize=9,
    )
    handles = [
        each for panel in (above[0], below[0]) for each in panel.get_legend_handles_labels()[0]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return Analysis(figure, table(numbers))


def _levels(change: np.ndarray) -> list[float]:
    """Return levels of 1, 2 and 5 times powers of 10, and 0, that show where a change is negative.

    They begin at a fifth of the largest gain, or where there is none at a hundredth of the largest
    loss.
    """
    least = max(-change.min() / 5, change.max() / 100, 1e-9)
    sizes = [
        factor * 10.0**power
        for power in range(int(np.floor(np.log10(least))), 10)
        for factor in (1, 2, 5)
    ]
    kept = [size for size in sizes if size >= least]
    levels = [*(-size for size in reversed(kept)), 0.0, *kept]
    return [level for level in levels if change.min() < level < change.max()]


def _contours(panel: Axes, plane: PlaneNumbers, change: np.ndarray) -> None:
    """Draw labelled lines of equal change in percent, blue below the base's loss, orange above."""
    axis, fine = _finer(plane["axis"], change)
    levels = _levels(change)
    below = sum(level < 0 for level in levels)
    bounds = [fine.min() - 1e-9, *levels, fine.max() + 1e-9]
    lower = 0.5 - SHADE * np.arange(below + 1, 0, -1) / max(below + 1, 3)
    higher = 0.5 + SHADE * np.arange(1, len(levels) - below + 1) / max(len(levels) - below, 3)
    panel.contourf(axis, axis, fine, levels=bounds, colors=CHANGE([*lower, *higher]))
    lines = panel.contour(axis, axis, fine, levels=levels, colors="#555555", linestyles="solid",
                          linewidths=[1.2 if level == 0 else 0.5 for level in levels])  # fmt: skip
    _label(panel, lines, [(0.0, 0.0), *((x, y) for x, y in plane["marks"].values())])
    panel.plot(0, 0, "o", color="black", ms=5, label="base")
    for name, (x, y) in plane["marks"].items():
        panel.plot(
            x, y, MARKERS.get(name, "x"), color="black", mfc="white", ms=6, ls="", label=name
        )
    panel.set_xlabel(plane["x"], fontsize=8)
    panel.tick_params(labelsize=7)
    panel.set_box_aspect(1)


def _finer(axis: Sequence[float], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a finer axis and values there, which never leave those of the points around them."""
    fine = np.linspace(axis[0], axis[-1], FINER * (len(axis) - 1) + 1)
    for direction in range(2):
        values = PchipInterpolator(axis, values, axis=direction)(fine)
    return fine, values


def _label(panel: Axes, lines: QuadContourSet, taken: Sequence[tuple[float, float]]) -> None:
    """Write the level on each line, as far from what is `taken` and from other labels as it can.

    A line without room has no label.
    """
    (low, high), found = panel.get_xlim(), [*taken]
    reach = high - low
    paths = zip(lines.levels, lines.get_paths(), strict=True)
    for _, path in sorted(paths, key=lambda each: (each[0] != 0, -abs(each[0]))):
        points = np.asarray(path.vertices)
        points = points[((points - low > EDGE * reach) & (high - points > EDGE * reach)).all(1)]
        if len(points):
            apart = np.linalg.norm(points[:, None] - np.array(found), axis=2).min(1)
            if apart.max() > ROOM * reach:
                x, y = points[apart.argmax()]
                found.append((float(x), float(y)))
    if places := found[len(taken) :]:
        panel.clabel(
            lines, manual=places, fontsize=6.5, colors="black",
            fmt=lambda value: f"{value:+g}%" if value else "0",
        )  # fmt: skip


def _cuts(panel: Axes, plane: PlaneNumbers, change: np.ndarray) -> None:
    axis = np.array(plane["axis"])
    zero = int(np.abs(axis).argmin())
    panel.plot(axis, change[zero], "o-", ms=2.5, lw=1.3, color=SERIES[0], label=plane["x"])
    panel.plot(axis, change[:, zero], "o-", ms=2.5, lw=1.3, color=SERIES[1], label=plane["y"])
    panel.axhline(0, color="black", lw=0.7)
    panel.axvline(0, color="black", lw=0.7, ls=":")
    panel.ticklabel_format(axis="y", useOffset=False)
    panel.tick_params(labelsize=7)
    panel.set_xlabel(f"along one axis, the other at {axis[zero]:.2g}", fontsize=8)
    panel.grid(axis="y", lw=0.3)
