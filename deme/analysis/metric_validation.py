"""What the metrics say of real images against real images, and of altered copies: bias, spread, and the order of damage."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deme.analysis import Analysis
from deme.data import ImageData, Images, InMemoryImages, SomeImages
from deme.data.pixels import every
from deme.diffusion.seeds import generator
from deme.metrics.bootstrap import resample_counts
from deme.metrics.features import FeatureExtractor
from deme.metrics.frechet import FrechetDistance
from deme.metrics.kernel import kernel_distance
from deme.metrics.neighbours import precision_recall
from deme.metrics.reference import SUBSET, Reference, measured
from deme.metrics.statistics import Statistics
from deme.runs.run import say
from deme.system.errors import BadConfig


def noisy(pixels: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of standard deviation `strength` grey levels to uint8 images [N, C, H, W]."""
    noise = torch.randn(pixels.shape, generator=generator("noise", str(strength)))
    return (pixels + strength * noise).clamp(0, 255).round().byte()


def blurred(pixels: Tensor, strength: float) -> Tensor:
    """Blur uint8 images [N, C, H, W] by a Gaussian of `strength` pixels."""
    smooth = gaussian_filter(pixels.numpy().astype(np.float32), (0, 0, strength, strength))
    return torch.from_numpy(smooth.clip(0, 255).round().astype(np.uint8))


def compressed(pixels: Tensor, strength: float) -> Tensor:
    """Store uint8 images [N, C, H, W] as JPEG of quality `strength` (4:2:0) and read them again."""

    def through(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=round(strength)
        )
        return np.asarray(Image.open(file)).reshape(image.shape)

    images = [through(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


ALTERATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], str]] = {
    "noise": (noisy, "standard deviation, grey levels"),
    "blur": (blurred, "Gaussian, pixels"),
    "jpeg": (compressed, "quality"),
}


@dataclass(frozen=True)
class Measured:
    """A set against the reference: distances with standard deviations (bootstrap over images), and what subsets gave."""

    title: str
    count: int
    frechet: float
    frechet_sd: float
    kid: float
    kid_error: float
    precision: float
    recall: float
    of_subsets: tuple[float, float, int] | None = (
        None  # standard deviations of both over so many disjoint subsets
    )


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
    """Compare disjoint random sets of the training images with each other, and altered copies with the reference set.

    `set_size` images are the reference, `set_size` others are judged: their first n for every n of `counts`, and `altered`
    of them at three strengths of noise, blur and JPEG. Images and features are kept in the cache, so a killed report goes on.
    """
    images = data().train
    if len(images) < 2 * set_size:
        raise BadConfig(
            f"two disjoint sets of {set_size} need {2 * set_size} images, the data set has {len(images)} to train on\n"
            f"type: figure.set_size={len(images) // 2}"
        )
    if (
        not counts
        or max(*counts, altered) > set_size
        or min(*counts, altered) < nearest_k + 2
        or set_size > SUBSET
    ):
        raise BadConfig(
            f"figure.counts and figure.altered must lie between nearest_k + 2 = {nearest_k + 2} and figure.set_size={set_size}, "
            f"and that not above {SUBSET}"
        )
    if replicates < 2:
        raise BadConfig(f"figure.replicates must be at least 2, got {replicates}")
    (extractor,) = _one(extractors())
    order = torch.randperm(len(images), generator=generator("metric validation", seed)).tolist()

    def features_of(chosen: Images, what: str) -> Reference:
        return measured(chosen, what, extractor, cache, say)

    reference = features_of(SomeImages(images, order[:set_size]), "images, reference")
    judged = features_of(SomeImages(images, order[set_size : 2 * set_size]), "other images")
    judge = _judge(reference, replicates, nearest_k, seed)
    rows = [judge("disjoint", _rows(judged)[:n], _rows(judged)) for n in counts]
    originals = every(SomeImages(images, order[set_size : set_size + altered]))
    clean = judge("unaltered", _rows(judged)[:altered])
    rows.append(clean)
    lines: dict[str, list[tuple[float, Measured]]] = {}
    few = []
    for kind, strengths in (("noise", noise), ("blur", blur), ("jpeg", jpeg)):
        for strength in strengths:
            changed = features_of(
                InMemoryImages(ALTERATIONS[kind][0](originals, strength)),
                f"images, {kind} {strength:g}",
            )
            lines.setdefault(kind, []).append(
                (strength, judge(f"{kind} {strength:g}", _rows(changed)))
            )
        few.append(
            judge(f"{kind} {strength:g}", _rows(changed)[: counts[0]], _rows(changed))
        )  # what is the spread there?
    rows += [one for points in lines.values() for _, one in points] + few
    disjoint = [row for row in rows if row.title == "disjoint"]
    return Analysis(_draw(disjoint, clean, lines, extractor, set_size), _table(rows, extractor))


def _one(found: list[FeatureExtractor]) -> list[FeatureExtractor]:
    if len(found) != 1:
        raise BadConfig(
            f"this figure needs a metrics option with one feature extractor, got {len(found)}"
        )
    return found


def _rows(measured_set: Reference) -> Tensor:
    assert measured_set.features is not None
    return measured_set.features


def _judge(
    reference: Reference, replicates: int, nearest_k: int, seed: int
) -> Callable[..., Measured]:
    distance = FrechetDistance(reference.statistics)
    others = _rows(reference)

    def frechet(features: Tensor, counts: Tensor | None = None) -> float:
        if len(features) <= features.shape[1]:
            return distance.of_features(features, counts)
        return distance(Statistics().update(features, counts))

    def judge(title: str, features: Tensor, whole: Tensor | None = None) -> Measured:
        say(f"judging {title}: {len(features)} images")
        spread = [
            frechet(features, resample_counts(seed, r, len(features))) for r in range(replicates)
        ]
        kid = kernel_distance(features, others)
        near = precision_recall(features, others, nearest_k)
        subsets = None
        if whole is not None and len(whole) >= 2 * len(features):
            parts = [part for part in whole.split(len(features)) if len(part) == len(features)]
            found = [(frechet(part), kernel_distance(part, others).value) for part in parts]
            both = np.std(found, axis=0, ddof=1)
            subsets = (float(both[0]), float(both[1]), len(parts))
        return Measured(
            title,
            len(features),
            frechet(features),
            float(np.std(spread, ddof=1)),
            kid.value,
            kid.standard_error,
            near["precision"],
            near["recall"],
            subsets,
        )

    return judge


def _table(rows: list[Measured], extractor: FeatureExtractor) -> list[list[str]]:
    frechet, kid = extractor.frechet_name, f"kid_{extractor.suffix} x 1000"
    titles = ["set", "images", frechet, "sd by bootstrap", f"sd of {frechet} over disjoint subsets (their number)",
              kid, "standard error", f"sd of {kid} over disjoint subsets", "precision", "recall"]  # fmt: skip
    table = [titles]
    for row in rows:
        of_frechet, of_kid = "", ""
        if row.of_subsets is not None:
            of_frechet = f"{row.of_subsets[0]:.3g} ({row.of_subsets[2]})"
            of_kid = f"{row.of_subsets[1] * 1e3:.2g}"
        table.append([
            row.title, f"{row.count:,}", f"{row.frechet:.4g}", f"{row.frechet_sd:.3g}", of_frechet,
            f"{row.kid * 1e3:.4f}", f"{row.kid_error * 1e3:.2g}", of_kid, f"{row.precision:.3f}", f"{row.recall:.3f}",
        ])  # fmt: skip
    return table


def _draw(
    disjoint: list[Measured],
    clean: Measured,
    lines: dict[str, list[tuple[float, Measured]]],
    extractor: FeatureExtractor,
    set_size: int,
) -> Figure:
    figure = Figure(figsize=(13, 7.2))
    panels = figure.subplots(2, 4)
    kid = f"kid_{extractor.suffix} x 1000"
    counts = [row.count for row in disjoint]
    for line, (name, values, errors, truth) in enumerate(
        [
            (
                extractor.frechet_name,
                [r.frechet for r in disjoint],
                [r.frechet_sd for r in disjoint],
                0,
            ),
            (kid, [1e3 * r.kid for r in disjoint], [1e3 * r.kid_error for r in disjoint], 1),
        ]
    ):
        panel = panels[line][0]
        panel.errorbar(
            counts,
            values,
            [1.96 * e for e in errors],
            fmt="o-",
            ms=4,
            lw=1.2,
            capsize=3,
            color="#1f4e79",
        )
        panel.axhline(0, color="black", lw=0.8)
        panel.set_xscale("log")
        panel.set_xticks(counts, [f"{n:,}" for n in counts], fontsize=7, rotation=30)
        panel.minorticks_off()
        panel.set_title(f"{name}\ndisjoint real images against {set_size:,}", fontsize=9)
        panel.set_xlabel("images judged (bars: 95%)", fontsize=8)
        floor = 1e3 * clean.kid if truth else clean.frechet
        for column, (kind, points) in enumerate(lines.items(), start=1):
            panel = panels[line][column]
            shown = [1e3 * m.kid if truth else m.frechet for _, m in points]
            spread = [1.96 * (1e3 * m.kid_error if truth else m.frechet_sd) for _, m in points]
            panel.errorbar(
                range(len(points)),
                shown,
                spread,
                fmt="o-",
                ms=4,
                lw=1.2,
                capsize=3,
                color="#b3541e",
            )
            panel.axhline(
                floor, color="#1f4e79", lw=1, ls="--", label=f"unaltered, {clean.count:,} images"
            )
            panel.set_xticks(range(len(points)), [f"{s:g}" for s, _ in points])
            panel.set_ylim(bottom=min(0, floor))
            panel.set_title(f"{name}\n{kind} ({ALTERATIONS[kind][1]})", fontsize=9)
            panel.legend(fontsize=7, frameon=False)
    for panel in panels.flat:
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", lw=0.3)
    figure.tight_layout()
    return figure
