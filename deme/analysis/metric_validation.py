"""Validation of the metrics: bias and spread on real images, and the order of damaged copies."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deme.analysis import Analysis
from deme.data import ImageData, Images, InMemoryImages, SomeImages, every
from deme.diffusion import generator
from deme.metrics import (
    SUBSET,
    FeatureExtractor,
    FrechetDistance,
    KernelDistance,
    Statistics,
    kernel_distance,
    measured,
    precision_recall,
    resample_counts,
)
from deme.system import BadConfig, tracked


def noisy(pixels: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of `strength` grey levels to uint8 images [N, C, H, W]."""
    noise = torch.randn(pixels.shape, generator=generator("noise", str(strength)))
    return (pixels + strength * noise).clamp(0, 255).round().byte()


def blurred(pixels: Tensor, strength: float) -> Tensor:
    """Blur uint8 images [N, C, H, W] by a Gaussian of `strength` pixels."""
    smooth = gaussian_filter(pixels.numpy().astype(np.float32), (0, 0, strength, strength))
    return torch.from_numpy(smooth.clip(0, 255).round().astype(np.uint8))


def compressed(pixels: Tensor, strength: float) -> Tensor:
    """Compress uint8 images [N, C, H, W] as JPEG of quality `strength` (4:2:0)."""

    def through(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        picture.save(file, "JPEG", quality=round(strength))
        return np.asarray(Image.open(file, formats=["JPEG"])).reshape(image.shape)

    images = [through(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


ALTERATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], str]] = {
    "noise": (noisy, "standard deviation, grey levels"),
    "blur": (blurred, "Gaussian, pixels"),
    "jpeg": (compressed, "quality"),
}


@dataclass(frozen=True)
class Measured:
    """The metrics of a set against the reference, and the bootstrap deviation of the distance.

    `of_subsets`: standard deviations of Frechet distance and KID over disjoint subsets, and their
    number.
    """

    title: str
    count: int
    frechet: float
    frechet_sd: float
    kid: KernelDistance
    near: dict[str, float]
    of_subsets: tuple[float, float, int] | None


def metric_validation(
    data: Callable[[], ImageData],
    extractors: Callable[[], list[FeatureExtractor]],
    cache: Path,
    set_size: int = 5000,
    counts: tuple[int, ...] = (250, 500, 1000, 2000, 5000),
    altered: int = 1000,
    noise: tuple[float, ...] = (4, 8, 16),
    blur: tuple[float, ...] = (0.5, 0.7, 1.0),
    jpeg: tuple[float, ...] = (95, 80, 50),
    replicates: int = 100,
    nearest_k: int = 5,
    seed: int = 0,
) -> Analysis:
    """Compare disjoint random sets of training images, and altered copies, with a reference set.

    `set_size` images are the reference, `set_size` others are measured: their first n for every n
    of `counts`, and `altered` of them at three strengths of noise, blur and JPEG. Features are kept
    in the cache, so that a killed report is resumed.
    """
    images = data().train
    if len(images) < 2 * set_size:
        raise BadConfig(
            f"two disjoint sets of {set_size} need {2 * set_size} training images, "
            f"the data set has {len(images)}\ntype: figure.set_size={len(images) // 2}"
        )
    least, sizes = nearest_k + 2, (*counts, altered)
    if not counts or max(sizes) > set_size or min(sizes) < least or set_size > SUBSET:
        raise BadConfig(
            f"figure.counts and figure.altered must lie between nearest_k + 2 = {least} and "
            f"figure.set_size={set_size}, and that must be at most {SUBSET}"
        )
    if replicates < 2:
        raise BadConfig(f"figure.replicates must be at least 2, got {replicates}")
    found = extractors()
    if len(found) != 1:
        raise BadConfig(
            f"this figure needs one feature extractor, metrics.features names {len(found)}\n"
            "type: metrics=<option with one feature extractor>"
        )
    extractor = found[0]
    order = torch.randperm(len(images), generator=generator("metric validation", seed)).tolist()

    def measured_of(chosen: Images, what: str) -> tuple[Statistics, Tensor]:
        found = measured(chosen, what, extractor, cache)
        assert found.features is not None  # of at most SUBSET images
        return found.statistics, found.features

    statistics, reference = measured_of(SomeImages(images, order[:set_size]), "images, reference")
    judge = partial(_judge, FrechetDistance(statistics), reference, replicates, nearest_k, seed)
    _, judged = measured_of(SomeImages(images, order[set_size : 2 * set_size]), "other images")
    disjoint = [judge("disjoint", judged[:n], judged) for n in counts]
    clean = judge("unaltered", judged[:altered])
    originals = every(SomeImages(images, order[set_size : set_size + altered]))
    lines: dict[str, list[tuple[float, Measured]]] = {}
    few = []
    for kind, strengths in (("noise", noise), ("blur", blur), ("jpeg", jpeg)):
        for strength in strengths:
            title = f"{kind} {strength:g}"
            damaged = InMemoryImages(ALTERATIONS[kind][0](originals, strength))
            _, changed = measured_of(damaged, f"images, {title}")
            lines.setdefault(kind, []).append((strength, judge(title, changed)))
        few.append(judge(title, changed[: counts[0]], changed))  # for the spread of few images
    rows = [*disjoint, clean, *(row for points in lines.values() for _, row in points), *few]
    return Analysis(_draw(disjoint, clean, lines, extractor, set_size), _table(rows, extractor))


def _judge(
    distance: FrechetDistance,
    reference: Tensor,
    replicates: int,
    nearest_k: int,
    seed: int,
    title: str,
    features: Tensor,
    whole: Tensor | None = None,
) -> Measured:
    """Return the metrics of features; `whole` is split into subsets of as many images."""
    count = len(features)

    def frechet(features: Tensor, counts: Tensor | None = None) -> float:
        if len(features) <= features.shape[1]:
            return distance.of_features(features, counts)
        return distance(Statistics().update(features, counts))

    resamples = tracked(range(replicates), f"{title}, {count} images", replicates, "resamples")
    spread = [frechet(features, resample_counts(seed, r, count)) for r in resamples]
    subsets = None
    if whole is not None and len(whole) >= 2 * count:
        parts = [part for part in whole.split(count) if len(part) == count]
        found = [(frechet(part), kernel_distance(part, reference).value) for part in parts]
        both = np.std(found, axis=0, ddof=1)
        subsets = (float(both[0]), float(both[1]), len(parts))
    return Measured(
        title,
        count,
        frechet(features),
        float(np.std(spread, ddof=1)),
        kernel_distance(features, reference),
        precision_recall(features, reference, nearest_k),
        subsets,
    )


def _table(rows: list[Measured], extractor: FeatureExtractor) -> list[list[str]]:
    frechet, kid = extractor.frechet_name, f"kid_{extractor.suffix} x 1000"
    table = [
        [
            "set",
            "images",
            frechet,
            "sd by bootstrap",
            f"sd of {frechet} over disjoint subsets (their number)",
            kid,
            "standard error",
            f"sd of {kid} over disjoint subsets",
            "precision",
            "recall",
        ]
    ]
    for row in rows:
        of_frechet, of_kid = "", ""
        if row.of_subsets is not None:
            of_frechet = f"{row.of_subsets[0]:.3g} ({row.of_subsets[2]})"
            of_kid = f"{row.of_subsets[1] * 1e3:.2g}"
        table.append(
            [
                row.title,
                f"{row.count:,}",
                f"{row.frechet:.4g}",
                f"{row.frechet_sd:.3g}",
                of_frechet,
                f"{row.kid.value * 1e3:.4f}",
                f"{row.kid.standard_error * 1e3:.2g}",
                of_kid,
                f"{row.near['precision']:.3f}",
                f"{row.near['recall']:.3f}",
            ]
        )
    return table


def _draw(
    disjoint: list[Measured],
    clean: Measured,
    lines: dict[str, list[tuple[float, Measured]]],
    extractor: FeatureExtractor,
    set_size: int,
) -> Figure:
    names: dict[str, Callable[[Measured], tuple[float, float]]] = {  # value and half of its bar
        extractor.frechet_name: lambda row: (row.frechet, 1.96 * row.frechet_sd),
        f"kid_{extractor.suffix} x 1000": lambda row: (
            1e3 * row.kid.value,
            1.96 * 1e3 * row.kid.standard_error,
        ),
    }
    figure = Figure(figsize=(13, 7.2))
    panels = figure.subplots(2, 4)
    style = {"fmt": "o-", "ms": 4, "lw": 1.2, "capsize": 3}
    counts = [row.count for row in disjoint]
    for (name, value), (first, *others) in zip(names.items(), panels, strict=True):
        values, errors = zip(*map(value, disjoint), strict=True)
        first.errorbar(counts, values, errors, color="#1f4e79", **style)
        first.axhline(0, color="black", lw=0.8)
        first.set_xscale("log")
        first.set_xticks(counts, [f"{n:,}" for n in counts], fontsize=7, rotation=30)
        first.minorticks_off()
        first.set_title(f"{name}\ndisjoint real images against {set_size:,}", fontsize=9)
        first.set_xlabel("images measured (bars: 95%)", fontsize=8)
        floor, label = value(clean)[0], f"unaltered, {clean.count:,} images"
        for panel, (kind, points) in zip(others, lines.items(), strict=True):
            places = range(len(points))
            values, errors = zip(*(value(row) for _, row in points), strict=True)
            panel.errorbar(places, values, errors, color="#b3541e", **style)
            panel.axhline(floor, color="#1f4e79", lw=1, ls="--", label=label)
            panel.set_xticks(places, [f"{strength:g}" for strength, _ in points])
            lowest = min(a - b for a, b in zip(values, errors, strict=True))
            if min(lowest, floor) >= 0:
                panel.set_ylim(bottom=0)
            panel.set_title(f"{name}\n{kind} ({ALTERATIONS[kind][1]})", fontsize=9)
            panel.legend(fontsize=7, frameon=False)
    for panel in panels.flat:
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", lw=0.3)
    figure.tight_layout()
    return figure
