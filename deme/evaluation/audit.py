"""What an evaluation left behind, against itself and against images made again."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.metrics import load_extractors, load_reference, load_scores
from deme.builders.models import Loaded
from deme.diffusion.seeds import generator
from deme.evaluation.audit_scores import Finding, audit_scores
from deme.evaluation.labels import Labels, distance_labels, interval, loss_labels, loss_ranges
from deme.evaluation.measure import held_out_of, loss_replicates, loss_rows
from deme.evaluation.scores import parts_of
from deme.evaluation.sources import source_of
from deme.evaluation.tolerance import agree, is_number, near
from deme.metrics import statistics_file
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
from deme.runs.run import Run
from deme.runs.settings.base import build
from deme.runs.settings.groups import ComputeSettings, MetricsSettings, PathsSettings
from deme.system import files, tensors
from deme.system.paths import cache_folder

NUMBER_TOLERANCE = (
    1e-6  # relative, or absolute below 1: the n x n route and the moments round differently
)
LOSS_TOLERANCE = 1e-3  # relative, per image and range
LOSS_IMAGES = 16


def audit(run: Run, num_images: int, pick_seed: int | None, batch_size: int) -> list[Finding]:
    """Return every check with its outcome."""
    written = files.read_json(run.path / "metrics.json")
    stored, replicates = written["metrics"], files.read_json(run.path / "replicates.json")
    compute = Compute.of(build(ComputeSettings, run.config["compute"]))
    source = source_of(run, compute)
    data = source.data
    draw = generator("verify", pick_seed) if pick_seed is not None else torch.Generator()
    if pick_seed is None:
        draw.seed()
    metrics, cache = (
        build(MetricsSettings, run.config["metrics"]),
        cache_folder(build(PathsSettings, run.config["paths"])),
    )
    extractors = load_extractors(metrics, compute.device)
    references = [load_reference(metrics, data, extractor, cache) for extractor in extractors]
    total = run.config["num_images"]
    picks = sorted(torch.randperm(total, generator=draw)[: max(2, num_images)].tolist())
    # even batches: one of a single image takes other kernels, and in half precision other images
    run.config["batch_size"] = math.ceil(len(picks) / math.ceil(len(picks) / max(2, batch_size)))
    scores = load_scores(metrics, compute.device) if source.prompts is not None else []
    again: list[list[Tensor]] = [[] for _ in (*extractors, *scores)]
    if again:
        for pixels in source.pixels(picks):
            seen = [*(look(pixels) for look in extractors), *(look(pixels) for look in scores)]
            for features, each in zip(again, seen, strict=True):
                features.append(each)

    labels: Labels = {}
    for extractor, reference in zip(extractors, references, strict=True):
        labels |= distance_labels(run.config, extractor, reference, total)
    looked_at, held_out = source.loaded if run.config["metrics"]["loss"] is not None else None, None
    if looked_at is not None:
        held_out = held_out_of(run.config, data, looked_at, compute.device)
        labels |= loss_labels(run.config, held_out, looked_at.model.schedule.num_timesteps)
    parts = [
        parts_of(score, source.prompts, total) for score in scores if source.prompts is not None
    ]
    labels |= {part.name: part.label for each in parts for part in each}
    found = list(_labels(run, written, replicates, labels))
    for extractor, reference, features in zip(
        extractors, references, again[: len(extractors)], strict=True
    ):
        found += _distance(
            run, extractor, reference, stored, torch.cat(features), picks, draw, compute
        )
    for score, asked, features in zip(scores, parts, again[len(extractors) :], strict=True):
        found += audit_scores(run, score, asked, stored, torch.cat(features), picks)
    if looked_at is not None:
        found += _loss(run, held_out, looked_at, stored, replicates, draw, compute)
    audited = {extractor.frechet_name for extractor in extractors} | {
        n
        for n in labels
        if n.partition("/")[0] in ("loss", *(score.score_name for score in scores))
    }
    rest = [
        *sorted(set(labels) - audited),
        *(f"the spread of {e.frechet_name}" for e in extractors),
    ]
    if rest:
        found.append((None, f"these do not follow from moments: {', '.join(rest)}"))
    return found


def _labels(
    run: Run, written: dict[str, Any], replicates: dict[str, Any], labels: Labels
) -> Iterator[Finding]:
    """What stands beside the numbers is what this run's config writes, and intervals are those of the replicates."""
    stored = written["metrics"]
    wrong = [f"{name} is not among this run's metrics" for name in stored if name not in labels]
    wrong += [f"{name} is missing" for name in labels if name not in stored]
    for name in labels.keys() & stored.keys():
        wrong += [
            f"{key} of {name}"
            for key, value in labels[name].items()
            if stored[name].get(key) != value
        ]
        if not is_number(stored[name].get("value")):
            wrong.append(f"the value of {name} is no number")
        elif name in replicates and not agree(
            interval(stored[name]["value"], replicates[name]), stored[name].get("interval")
        ):
            wrong.append(f"interval of {name}")
    if written["cell"] != {"suite": run.config["suite"], **run.config["cell"]}:
        wrong.append("cell")
    yield not wrong, "metrics.json holds this run's metrics, labels and intervals" + _but(wrong)


def _distance(
    run: Run,
    extractor: FeatureExtractor,
    reference: Reference,
    stored: dict[str, Any],
    features: Tensor,
    picks: list[int],
    draw: torch.Generator,
    compute: Compute,
) -> Iterator[Finding]:
    name, folder, n = extractor.frechet_name, run.path / "moments", run.config["num_images"]
    statistics = statistics_file.load(folder / f"{extractor.suffix}.safetensors")
    prints = tensors.TensorFile(folder / f"{extractor.suffix}_fingerprints.safetensors").read(
        "fingerprints"
    )
    counts = (statistics.count, len(prints))
    fit = counts == (n, n) and len(statistics.mean) == extractor.dimension
    yield fit, f"{name}: {n:,} images were asked for; moments and fingerprints are of {counts}"
    if not fit:
        return
    error = moments_error(prints, statistics, extractor.name)
    yield (
        error <= MOMENTS_TOLERANCE,
        (
            f"{name}: moments and fingerprints belong together, to {error:.1e} standard deviations (allowed {MOMENTS_TOLERANCE:g})"
        ),
    )
    value = FrechetDistance(reference.statistics, compute.device)(statistics)
    said = stored.get(name, {}).get("value")
    yield (
        is_number(said) and near(value, said, NUMBER_TOLERANCE),
        (
            f"{name}: the moments give {value:.6f}, metrics.json says {said} (allowed {NUMBER_TOLERANCE:g})"
        ),
    )
    apart = differences(fingerprints(features, extractor.name), prints[picks], prints)
    exact = compute.precision == "32-true"
    kind, worst = ("at most", apart.max()) if exact else ("in the middle", apart.median())
    yield (
        float(worst) <= TOLERANCE,
        (
            f"{name}: {len(picks)} images made again differ by {float(worst):.1e} standard deviations {kind} "
            f"(allowed {TOLERANCE:g}; images {picks[0]} to {picks[-1]})"
        ),
    )
    shift = drift(features, statistics, draw)
    yield (
        shift <= DRIFT_TOLERANCE,
        (
            f"{name}: their mean is that of the moments in directions drawn now, to {shift:.1f} standard errors "
            f"(allowed {DRIFT_TOLERANCE:g})"
        ),
    )


def _loss(
    run: Run,
    held_out: Any,
    loaded: Loaded,
    stored: dict[str, Any],
    replicates: dict[str, Any],
    draw: torch.Generator,
    compute: Compute,
) -> Iterator[Finding]:
    settings, model = run.config["metrics"]["loss"], loaded.model
    losses = tensors.TensorFile(run.path / "moments" / "loss.safetensors").read("losses")
    ranges = loss_ranges(settings, model.schedule.num_timesteps)
    shape = (len(ranges), len(held_out))
    yield (
        tuple(losses.shape) == shape,
        f"loss: {shape} ranges and held-out images; losses are of {tuple(losses.shape)}",
    )
    if tuple(losses.shape) != shape:
        return
    wrong = []
    for name, values in loss_rows(losses, ranges, model.schedule.num_timesteps).items():
        said = stored.get(name, {}).get("value")
        if not is_number(said) or not near(float(values.mean()), said, 1e-9):
            wrong.append(name)
        elif not agree(loss_replicates(run.config, values), replicates[name]):
            wrong.append(f"resamples of {name}")
    yield (
        not wrong,
        f"loss: metrics.json says what the losses of {losses.shape[1]} images give{_but(wrong)}",
    )
    rows = sorted(torch.randperm(losses.shape[1], generator=draw)[:LOSS_IMAGES].tolist())
    triples = fixed_triples(held_out, ranges, settings["draws"], settings["seed"]).of(rows)
    again = denoising_loss(
        loaded.exact, model.schedule, model.prediction_type, triples, compute.device
    )
    apart = float(((again - losses[:, rows]).abs() / losses[:, rows].abs().clamp_min(1e-12)).max())
    yield (
        apart <= LOSS_TOLERANCE,
        (
            f"loss: those of {len(rows)} images measured again differ by at most {apart:.1e} of their size (allowed {LOSS_TOLERANCE:g})"
        ),
    )


def _but(wrong: list[str]) -> str:
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return f", but not: {', '.join(wrong[:4])}{more}" if wrong else ""
