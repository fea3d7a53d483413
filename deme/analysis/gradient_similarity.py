"""Similarity of the loss gradients of different timesteps: do they conflict at the base?

The paper's Figure 1a; estimates as in docs/figures.md#gradient-similarity.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor
from typing_extensions import TypedDict

from deme.analysis import Analysis, LoadImages, Parts, Study
from deme.data import EncodedDataset, Images
from deme.diffusion import TimestepRange, uniform
from deme.methods.affinity import (
    MIN_RELIABILITY,
    affinity_of,
    gradient_sketches,
    inner_products,
    num_samples,
    standard_errors,
)
from deme.models.denoiser import DenoisingModel
from deme.report.statistics import student_quantile
from deme.report.style import COLOURS, SERIES, diverging
from deme.runs import BACKWARD
from deme.system import BadConfig, progress

CONFLICT = diverging(COLOURS["worse"], SERIES[0])


class Similarity(TypedDict):
    """The numbers of the figure, of m bins.

    `cosines` [m, m] corrected for noise (0 for bins that are not reliable), `standard_errors`
    [m, m] of them (None where unknown), `uncorrected` cosines of two estimates, `reliability` [m].
    `norms` [m] of the gradients of the mean loss without their noise, and `noisy_norms` [m] of one
    half's estimates. `ranges`: those of the table.
    """

    num_timesteps: int
    num_images: int
    num_groups: int
    edges: list[int]
    ranges: list[list[int]]
    cosines: list[list[float]]
    standard_errors: list[list[float | None]]
    uncorrected: list[list[float]]
    reliability: list[float]
    norms: list[float]
    noisy_norms: list[float]


def gradient_similarity(
    model: Callable[[], DenoisingModel],
    images: LoadImages,
    num_bins: int = 25,
    num_images: int = 2048,
    num_groups: int = 4,
    num_ranges: int = 4,
    batch_size: int = 16,
    seed: int = 0,
) -> Study[Similarity]:
    """Compare the gradients of the loss in `num_bins` equal bins of [0, T), at `model`.

    Each is estimated from two halves of `num_images` training images; each half is divided into
    `num_groups`, over which the jackknife gives standard errors. Raises BadConfig.
    """
    network = model()
    num_timesteps = network.schedule.num_timesteps
    if not num_ranges <= num_bins <= num_timesteps:
        raise BadConfig(
            f"figure.num_bins must lie between figure.num_ranges={num_ranges} and the model's "
            f"{num_timesteps} timesteps; got {num_bins}"
        )
    if num_groups < 2 or num_images < 4 * num_groups:
        raise BadConfig(
            f"figure.num_groups must be at least 2, and figure.num_images at least 4 times as "
            f"many; got {num_groups} and {num_images}"
        )
    bins = uniform(num_bins, num_timesteps)

    def measure(parts: Parts) -> Similarity:
        training = images(network, "train")
        sketch = _Sketches(network, training, bins, num_images, num_groups, batch_size, seed, parts)
        with progress("gradients", num_bins, "bins") as bar:
            for index in range(num_bins):
                sketch(index)
                bar.advance()
        products = inner_products(sketch, num_bins)
        affinity, errors = affinity_of(products), standard_errors(products)
        unknown = affinity.reliability < MIN_RELIABILITY
        errors[unknown] = errors[:, unknown] = torch.nan
        count = num_samples(num_images, num_groups)
        return {
            "num_timesteps": num_timesteps,
            "num_images": num_images,
            "num_groups": num_groups,
            "edges": [0, *(item.high for item in bins)],
            "ranges": [[item.low, item.high] for item in uniform(num_ranges, num_timesteps)],
            "cosines": affinity.cosines.tolist(),
            "standard_errors": [[_known(e) for e in row] for row in errors.tolist()],
            "uncorrected": products.uncorrected.tolist(),
            "reliability": affinity.reliability.tolist(),
            "norms": (products.inner.diagonal().clamp_min(0).sqrt() / count).tolist(),
            "noisy_norms": (products.within.mean(0).sqrt() / count).tolist(),
        }

    passes = num_bins * num_images * (1 + BACKWARD)
    return Study(passes, network, Similarity, measure, draw)


class _Sketches:
    """The sketched gradients of a bin, measured once and then read."""

    def __init__(
        self,
        network: DenoisingModel,
        images: Images | EncodedDataset,
        bins: list[TimestepRange],
        num_images: int,
        num_groups: int,
        batch_size: int,
        seed: int,
        parts: Parts,
    ) -> None:
        self.network, self.images, self.bins, self.parts = network, images, bins, parts
        self.arguments = (num_images, seed, num_groups, batch_size)

    def __call__(self, index: int) -> Tensor:
        """Return sketches [2, s, k]."""
        return self.parts(
            f"bin{index}",
            lambda: {
                "sketches": gradient_sketches(
                    self.network, self.images, self.bins[index], *self.arguments
                )
            },
        )["sketches"]


def _known(error: float) -> float | None:
    return error if error == error else None


def conflicts(numbers: Similarity) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of bins [m, m] conflict beyond noise, and which are known at all.

    They conflict if the 95% interval of their cosine lies below 0.
    """
    errors = np.array(numbers["standard_errors"], dtype=np.float64)  # None is NaN
    t = student_quantile(2 * (numbers["num_groups"] - 1), 0.975)
    known = np.isfinite(errors)
    upper = np.array(numbers["cosines"]) + t * np.where(known, errors, np.inf)
    return upper < 0, known


def table(numbers: Similarity) -> list[list[str]]:
    """Return a line per range, and one of all timesteps."""
    edges = np.array(numbers["edges"])
    centres = (edges[:-1] + edges[1:]) / 2
    conflict, known = conflicts(numbers)
    apart = ~np.eye(len(centres), dtype=bool)
    lines = [
        [
            "timesteps",
            "reliability",
            "gradient norm",
            "conflicts inside",
            "conflicts with all",
            "pairs unknown",
        ]
    ]
    ranges = [*numbers["ranges"], [0, numbers["num_timesteps"]]]
    for low, high in ranges:
        rows = (low <= centres) & (centres < high)
        inside = conflict[np.ix_(rows, rows)][apart[np.ix_(rows, rows)]]
        pairs = apart[rows]
        lines.append(
            [
                str(TimestepRange(low, high)),
                f"{np.array(numbers['reliability'])[rows].mean():.2f}",
                f"{np.array(numbers['norms'])[rows].mean():.3g}",
                f"{inside.mean():.0%}" if inside.size else "--",
                f"{conflict[rows][pairs].mean():.0%}" if pairs.any() else "--",
                f"{1 - known[rows][pairs].mean():.0%}" if pairs.any() else "--",
            ]
        )
    return lines


def draw(numbers: Similarity) -> Analysis:
    """Return both matrices of cosines, and tables of reliability and norms."""
    figure = Figure(figsize=(13.5, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 0.95])
    corrected, plain = (figure.add_subplot(grid[:, column]) for column in range(2))
    conflict, known = conflicts(numbers)
    values = np.where(known | np.eye(len(known), dtype=bool), numbers["cosines"], np.nan)
    picture = _matrix(corrected, values, numbers)
    rows, columns = np.nonzero(conflict)
    edges = np.array(numbers["edges"])
    centres = (edges[:-1] + edges[1:]) / 2
    corrected.plot(centres[columns], centres[rows], ".", color="black", ms=2.5)
    share = conflict[~np.eye(len(conflict), dtype=bool)].mean()
    corrected.set_title(
        f"cosine of loss gradients, corrected for noise\n"
        f"dots: below 0 beyond noise, {share:.0%} of pairs (grey: not known)",
        fontsize=9,
    )
    _matrix(plain, np.array(numbers["uncorrected"]), numbers)
    plain.set_title(
        f"the same without correction, from {numbers['num_images'] // 2:,} samples each", fontsize=9
    )
    bar = figure.colorbar(picture, ax=[corrected, plain], shrink=0.8, pad=0.01)
    bar.ax.tick_params(labelsize=8)
    corrected.set_ylabel("timestep t", fontsize=8)
    _curves([figure.add_subplot(grid[row, 2]) for row in range(2)], centres, numbers)
    return Analysis(figure, table(numbers))


def _matrix(panel: Axes, values: np.ndarray, numbers: Similarity) -> AxesImage:
    total = numbers["num_timesteps"]
    panel.set_facecolor("#bdbdbd")
    picture = panel.imshow(
        values, cmap=CONFLICT, vmin=-1, vmax=1, origin="lower", extent=(0, total, 0, total),
        interpolation="nearest",
    )  # fmt: skip
    for _, high in numbers["ranges"][:-1]:
        panel.axvline(high, color="black", lw=0.4)
        panel.axhline(high, color="black", lw=0.4)
    panel.set_xlabel("timestep t (0: least noise)", fontsize=8)
    panel.tick_params(labelsize=8)
    return picture


def _curves(panels: list[Axes], centres: np.ndarray, numbers: Similarity) -> None:
    first, second = panels
    first.plot(centres, numbers["reliability"], "o-", ms=3, lw=1.2, color=SERIES[0])
    first.axhline(MIN_RELIABILITY, color=COLOURS["not resolved"], lw=0.8, ls="--")
    first.set_title(
        "reliability: cosine of two estimates of one gradient\n"
        f"(not known below {MIN_RELIABILITY})",
        fontsize=9,
    )
    first.set_ylim(min(0, *numbers["reliability"]) - 0.03, 1.03)
    positive = np.where(np.array(numbers["norms"]) > 0, numbers["norms"], np.nan)
    second.plot(centres, positive, "o-", ms=3, lw=1.2, color=SERIES[0], label="without its noise")
    second.plot(
        centres, numbers["noisy_norms"], ".--", ms=3, lw=0.9, color=COLOURS["not resolved"],
        label="of an estimate",
    )  # fmt: skip
    second.set_yscale("log")
    second.set_title("norm of the gradient of the mean loss", fontsize=9)
    second.set_xlabel("timestep t (0: least noise)", fontsize=8)
    second.legend(fontsize=7, frameon=False)
    for panel in panels:
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", lw=0.3)
