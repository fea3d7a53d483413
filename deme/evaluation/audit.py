"""Checks of a finished evaluation: its files agree with each other and with regenerated images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.metrics import load_extractors, load_reference, load_scores
from deme.builders.models import Loaded
from deme.data import EncodedDataset, Images
from deme.diffusion.seeds import generator
from deme.evaluation.labels import Labels, distance_labels, interval, loss_labels, loss_ranges
from deme.evaluation.measure import held_out_images, loss_rows
from deme.evaluation.scores import Part, parts_of
from deme.evaluation.sources import load_source
from deme.metrics import statistics_file
from deme.metrics.bootstrap import resampled_means
from deme.metrics.denoising_loss import denoising_loss, fixed_triples
from deme.metrics.features import FeatureExtractor
from deme.metrics.fingerprint import (
    DRIFT_TOLERANCE,
    MOMENTS_TOLERANCE,
    TOLERANCE,
    differences,
    drift,
    fingerprints,
    moments_error,
)
from deme.metrics.frechet import FrechetDistance
from deme.metrics.reference import Reference
from deme.metrics.text_score import TextScore
from deme.runs.run import Run
from deme.runs.settings.commands import EvaluateSettings
from deme.system import cache_folder, files, tensors

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
    written = files.read_json(run.path / "metrics.json")
    stored, replicates = written["metrics"], files.read_json(run.path / "replicates.json")
    draw = generator("verify", pick_seed) if pick_seed is not None else torch.Generator()
    if pick_seed is None:
        draw.seed()
    total = settings.num_images
    picks = sorted(torch.randperm(total, generator=draw)[: max(2, num_images)].tolist())
    # batches of equal size: a batch of one image runs other kernels, and in half precision differs
    size = math.ceil(len(picks) / math.ceil(len(picks) / max(2, batch_size)))
    settings = replace(settings, batch_size=size)
    metrics, compute, moments = settings.metrics, Compute.of(settings.compute), run.path / "moments"
    source = load_source(run, settings, compute)
    extractors = load_extractors(metrics, compute.device)
    cache = cache_folder(settings.paths)
    references = [load_reference(metrics, source.data, each, cache) for each in extractors]
    prompts = source.prompts
    scores = load_scores(metrics, compute.device) if prompts is not None else []
    parts = [] if prompts is None else [parts_of(score, prompts, total) for score in scores]
    networks: list[FeatureExtractor | TextScore] = [*extractors, *scores]
    batches = (
        [[network(pixels) for network in networks] for pixels in source.pixels(picks)]
        if (networks)
        else []
    )
    again = [torch.cat(features) for features in zip(*batches, strict=True)]

    labels: Labels = {part.name: part.label for each in parts for part in each}
    for extractor, reference in zip(extractors, references, strict=True):
        labels |= distance_labels(metrics, extractor, reference, total)
    loaded = source.loaded if metrics.loss is not None else None
    checked = {extractor.frechet_name for extractor in extractors}
    checked |= {part.name for each in parts for part in each}
    found: list[Finding] = []
    for extractor, reference, features in zip(extractors, references, again, strict=False):
        found += _distance(
            moments, extractor, reference, stored, features, picks, draw, compute, total
        )
    for score, of_score, features in zip(scores, parts, again[len(extractors) :], strict=True):
        found += _score(moments, score, of_score, stored, features, picks, metrics.replicates)
    if loaded is not None and metrics.loss is not None:
        held_out = held_out_images(settings, source.data, loaded, compute.device)
        of_loss = loss_labels(metrics.loss, held_out, loaded.model.schedule.num_timesteps)
        labels |= of_loss
        checked |= set(of_loss)
        found += _loss(
            moments, settings, held_out, loaded, stored, replicates, draw, compute.device
        )
    cell = {"suite": settings.suite, **settings.cell}
    found.insert(0, _labels(written, cell, replicates, labels))
    if rest := [
        *sorted(set(labels) - checked),
        *(f"the spread of {extractor.frechet_name}" for extractor in extractors),
    ]:
        found.append((None, f"not checked, as they do not follow from moments: {', '.join(rest)}"))
    return found


def _labels(
    written: dict[str, Any],
    cell: Mapping[str, object],
    replicates: Mapping[str, list[float]],
    labels: Labels,
) -> Finding:
    """Labels are those of this run's config, and intervals are those of the replicates."""
    stored: Stored = written["metrics"]
    wrong = [f"{name} is not a metric of this run" for name in stored if name not in labels]
    wrong += [f"{name} is missing" for name in labels if name not in stored]
    for name in labels.keys() & stored.keys():
        entry = stored[name]
        value: Any = entry.get("value")
        wrong += [f"{key} of {name}" for key in labels[name] if entry.get(key) != labels[name][key]]
        if not _is_number(value):
            wrong.append(f"the value of {name} is no number")
        elif name in replicates and not _agree(
            interval(value, replicates[name]), entry.get("interval")
        ):
            wrong.append(f"interval of {name}")
    if written["cell"] != cell:
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
    file = tensors.TensorFile(moments / f"{suffix}_fingerprints.safetensors")
    prints = file.read("fingerprints")
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
        _near(value, recorded, NUMBER_TOLERANCE),
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
        recorded: Any = entry.get("value")
        if len(values) != len(part.rows) or not _near(score.mean(values), recorded, 1e-9):
            wrong.append(part.name)
        elif (spread := part.replicates(values, replicates)) is not None and not _agree(
            interval(recorded, spread), entry.get("interval")
        ):
            wrong.append(f"the interval of {part.name}")
    name = score.score_name
    yield not wrong, f"{name}: metrics.json agrees with the scores of its images{_but(wrong)}"
    if name in file.specs:
        again = score.score(features, [parts[0].texts[i] for i in picks])
        apart = (again - file.read(name)[picks]).abs() > SCORE_TOLERANCE
        share = float(apart.double().mean())
        yield (
            share <= MAX_SHARE,
            f"{name}: {share:.0%} of {len(picks)} regenerated images score differently by more "
            f"than {SCORE_TOLERANCE} (allowed {MAX_SHARE:.0%})",
        )


def _loss(
    moments: Path,
    settings: EvaluateSettings,
    held_out: Images | EncodedDataset,
    loaded: Loaded,
    stored: Stored,
    replicates: Mapping[str, list[float]],
    draw: torch.Generator,
    device: str,
) -> Iterator[Finding]:
    loss, model = settings.metrics.loss, loaded.model
    assert loss is not None
    losses = tensors.TensorFile(moments / "loss.safetensors").read("losses")
    ranges = loss_ranges(loss, model.schedule.num_timesteps)
    shape = (len(ranges), len(held_out))
    fit = tuple(losses.shape) == shape
    yield fit, f"loss: {shape} ranges and held-out images, losses of {tuple(losses.shape)}"
    if not fit:
        return
    wrong = []
    for name, values in loss_rows(losses, ranges, model.schedule.num_timesteps).items():
        if not _near(float(values.mean()), stored.get(name, {}).get("value"), 1e-9):
            wrong.append(name)
        elif not _agree(
            resampled_means(loss.seed, values, settings.metrics.replicates), replicates[name]
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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _near(one: float, other: Any, tolerance: float) -> bool:
    """Whether `other` is a number within a tolerance of `one`, relative above 1."""
    return _is_number(other) and abs(one - other) <= tolerance * max(1.0, abs(one))


def _agree(expected: Sequence[float], recorded: Any) -> bool:
    """Whether a recorded list is the expected one, up to the order of summation."""
    return (
        isinstance(recorded, list)
        and len(recorded) == len(expected)
        and all(map(_near, expected, recorded, repeat(1e-9)))
    )


def _but(wrong: list[str]) -> str:
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return f", except: {', '.join(wrong[:4])}{more}" if wrong else ""
