"""Checks of a finished evaluation: its files agree with each other and with regenerated images."""

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from deme.builders import Compute, Loaded
from deme.data import EncodedDataset, Images
from deme.diffusion import generator
from deme.evaluation.labels import Labels, distance_labels, interval, loss_labels, loss_ranges
from deme.evaluation.measure import held_out_images, load_networks, loss_rows
from deme.evaluation.scores import Part
from deme.evaluation.sources import load_source
from deme.metrics import (
    FeatureExtractor,
    FrechetDistance,
    Reference,
    TextScore,
    denoising_loss,
    fixed_triples,
    resampled_means,
    statistics_file,
)
from deme.metrics.fingerprint import (
    DRIFT_TOLERANCE,
    MOMENTS_TOLERANCE,
    TOLERANCE,
    differences,
    drift,
    fingerprints,
    moments_error,
)
from deme.runs import EvaluateSettings, LossMetricSettings, Metrics, Replicates, Run
from deme.system import read_json, tensors

# relative, and absolute below 1: the two ways to compute a distance round differently
NUMBER_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-3  # relative, per image and range
LOSS_IMAGES = 16
SCORE_TOLERANCE = 0.05  # of a score of 0 to 100: the effect of one grey level in a few pixels
MAX_SHARE = 0.05  # of regenerated images that may score differently: a class can change

Finding = tuple[bool | None, str]  # True: holds, False: does not hold, None: was not checked
Stored = Mapping[str, Mapping[str, Any]]  # the metrics of metrics.json


def audit(
    run: Run, settings: EvaluateSettings, num_images: int, pick_seed: int | None, batch_size: int
) -> list[Finding]:
    """Return every check of an evaluation with its outcome, regenerating `num_images` images.

    `pick_seed` decides which; None takes an unpredictable seed.
    """
    written = read_json(run.path / "metrics.json", Metrics)
    stored, replicates = written["metrics"], read_json(run.path / "replicates.json", Replicates)
    draw = generator("verify", secrets.randbits(63) if pick_seed is None else pick_seed)
    total = settings.num_images
    picks = sorted(torch.randperm(total, generator=draw)[: max(2, num_images)].tolist())
    # batches of equal size: a batch of one image runs other kernels, and in half precision differs
    num_batches = math.ceil(len(picks) / max(2, batch_size))
    settings = replace(settings, batch_size=math.ceil(len(picks) / num_batches))
    metrics, compute, moments = settings.metrics, Compute.of(settings.compute), run.path / "moments"
    source = load_source(run, settings, compute)
    distances, scores = load_networks(settings, source, compute.device)
    networks = [network for network, _ in (*distances, *scores)]
    pixels = source.pixels(picks) if networks else []
    batches = [[network(batch) for network in networks] for batch in pixels]
    again = iter([torch.cat(features) for features in zip(*batches, strict=True)])

    labels: Labels = {}
    found: list[Finding] = []
    unchecked: list[str] = []
    for extractor, reference in distances:
        of_distance = distance_labels(metrics, extractor, reference, total)
        labels |= of_distance
        unchecked += sorted(of_distance.keys() - {extractor.frechet_name})
        found += _distance(
            moments, extractor, reference, stored, next(again), picks, draw, compute, total
        )
    for score, parts in scores:
        labels |= {part.name: part.label for part in parts}
        found += _score(moments, score, parts, stored, next(again), picks, metrics.replicates)
    if source.loaded is not None and metrics.loss is not None:
        loaded, device = source.loaded, compute.device
        held_out = held_out_images(settings, source.data, loaded, device)
        labels |= loss_labels(metrics.loss, held_out, loaded.model.schedule.num_timesteps)
        found += _loss(
            moments, settings, metrics.loss, held_out, loaded, stored, replicates, draw, device
        )
    same_cell = written["cell"] == {"suite": settings.suite, **settings.cell}
    found.insert(0, _labels(stored, labels, replicates, same_cell))
    if distances:
        unchecked += [f"the spread of {extractor.frechet_name}" for extractor, _ in distances]
        found.append(
            (None, f"not checked, as they do not follow from moments: {', '.join(unchecked)}")
        )
    return found


def _labels(
    stored: Stored, labels: Labels, replicates: Mapping[str, list[float]], same_cell: bool
) -> Finding:
    """Labels are those of this run's config, and intervals are those of the replicates."""
    wrong = [f"{name} is not a metric of this run" for name in stored if name not in labels]
    wrong += [f"{name} is missing" for name in labels if name not in stored]
    for name in labels.keys() & stored.keys():
        entry, value = stored[name], stored[name].get("value")
        wrong += [f"{key} of {name}" for key in labels[name] if entry.get(key) != labels[name][key]]
        if not _is_number(value):
            wrong.append(f"the value of {name} is not a number")
        elif name in replicates and not _agree(
            interval(value, replicates[name]), entry.get("interval")
        ):
            wrong.append(f"interval of {name}")
    if not same_cell:
        wrong.append("cell")
    return not wrong, "metrics.json holds this run's metrics, labels and intervals" + _but(wrong)


def _distance(
    moments: Path,
    extractor: FeatureExtractor,
    reference: Reference,
    stored: Stored,
    features: Tensor,
    picks: list[int],
    draw: torch.Generator,
    compute: Compute,
    n: int,
) -> Iterator[Finding]:
    name, suffix = extractor.frechet_name, extractor.suffix
    statistics = statistics_file.load(moments / f"{suffix}.safetensors")
    prints = tensors.TensorFile(moments / f"{suffix}_fingerprints.safetensors").read("fingerprints")
    counts = (statistics.count, len(prints))
    fit = counts == (n, n) and len(statistics.mean) == extractor.dimension
    yield fit, f"{name}: num_images={n:,}; moments and fingerprints are of {counts} images"
    if not fit:
        return
    error = moments_error(prints, statistics, extractor.name)
    yield (
        error <= MOMENTS_TOLERANCE,
        f"{name}: moments and fingerprints belong together, to {error:.1e} standard deviations "
        f"(allowed {MOMENTS_TOLERANCE:g})",
    )
    value = FrechetDistance(reference.statistics, compute.device)(statistics)
    recorded = stored.get(name, {}).get("value")
    yield (
        _near(recorded, value, NUMBER_TOLERANCE),
        f"{name}: the moments give {value:.6f}, metrics.json {recorded} "
        f"(allowed {NUMBER_TOLERANCE:g})",
    )
    apart = differences(fingerprints(features, extractor.name), prints[picks], prints)
    exact = compute.precision == "32-true"
    kind, worst = ("at most", apart.max()) if exact else ("in the median", apart.median())
    yield (
        float(worst) <= TOLERANCE,
        f"{name}: {len(picks)} regenerated images differ by {float(worst):.1e} standard deviations "
        f"{kind} (allowed {TOLERANCE:g}; images {picks[0]} to {picks[-1]})",
    )
    shift = drift(features, statistics, draw)
    yield (
        shift <= DRIFT_TOLERANCE,
        f"{name}: in random directions, the mean of these images is that of the moments, to "
        f"{shift:.1f} standard errors (allowed {DRIFT_TOLERANCE:g})",
    )


def _score(
    moments: Path,
    score: TextScore,
    parts: list[Part],
    stored: Stored,
    features: Tensor,
    picks: list[int],
    replicates: int,
) -> Iterator[Finding]:
    file, wrong = tensors.TensorFile(moments / f"{score.suffix}_scores.safetensors"), []
    for part in parts:
        values = file.read(part.name) if part.name in file.specs else torch.empty(0)
        entry = stored.get(part.name, {})
        recorded = entry.get("value")
        if len(values) != len(part.rows) or not _near(recorded, score.mean(values), 1e-9):
            wrong.append(part.name)
        elif (spread := part.replicates(values, replicates)) is not None and not _agree(
            interval(recorded, spread), entry.get("interval")
        ):
            wrong.append(f"the interval of {part.name}")
    name = score.score_name
    yield not wrong, f"{name}: metrics.json agrees with the scores of its images{_but(wrong)}"
    if name in file.specs:
        again = score.score(features, [parts[0].texts[i] for i in picks])
        share = float(((again - file.read(name)[picks]).abs() > SCORE_TOLERANCE).double().mean())
        yield (
            share <= MAX_SHARE,
            f"{name}: {share:.0%} of {len(picks)} regenerated images score differently by more "
            f"than {SCORE_TOLERANCE} (allowed {MAX_SHARE:.0%})",
        )


def _loss(
    moments: Path,
    settings: EvaluateSettings,
    loss: LossMetricSettings,
    held_out: Images | EncodedDataset,
    loaded: Loaded,
    stored: Stored,
    replicates: Mapping[str, list[float]],
    draw: torch.Generator,
    device: str,
) -> Iterator[Finding]:
    model = loaded.model
    losses = tensors.TensorFile(moments / "loss.safetensors").read("losses")
    ranges = loss_ranges(loss, model.schedule.num_timesteps)
    shape, found = (len(ranges), len(held_out)), tuple(losses.shape)
    yield found == shape, f"loss: {shape} ranges and held-out images, losses of {found}"
    if found != shape:
        return
    wrong = []
    for name, values in loss_rows(losses, ranges, model.schedule.num_timesteps).items():
        if not _near(stored.get(name, {}).get("value"), float(values.mean()), 1e-9):
            wrong.append(name)
        elif not _agree(
            resampled_means(loss.seed, values, settings.metrics.replicates), replicates.get(name)
        ):
            wrong.append(f"resamples of {name}")
    yield not wrong, f"loss: metrics.json agrees with the losses of its images{_but(wrong)}"
    rows = sorted(torch.randperm(losses.shape[1], generator=draw)[:LOSS_IMAGES].tolist())
    triples = fixed_triples(held_out, ranges, loss.draws, loss.seed).of(rows)
    again = denoising_loss(loaded.exact, model.schedule, model.prediction_type, triples, device)
    apart = float(((again - losses[:, rows]).abs() / losses[:, rows].abs().clamp_min(1e-12)).max())
    yield (
        apart <= LOSS_TOLERANCE,
        f"loss: remeasured on {len(rows)} images it differs by at most {apart:.1e} of its size "
        f"(allowed {LOSS_TOLERANCE:g})",
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _near(recorded: object, expected: float, tolerance: float) -> TypeGuard[float]:
    """Whether `recorded` is a number within a tolerance of `expected`, relative above 1."""
    return _is_number(recorded) and abs(expected - recorded) <= tolerance * max(1.0, abs(expected))


def _agree(expected: Sequence[float], recorded: object) -> bool:
    """Whether a recorded list is the expected one, up to the order of summation."""
    return (
        isinstance(recorded, list)
        and len(recorded) == len(expected)
        and all(map(_near, recorded, expected, repeat(1e-9)))
    )


def _but(wrong: list[str]) -> str:
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return f", except: {', '.join(wrong[:4])}{more}" if wrong else ""
