"""What an evaluation left behind, against itself and against images made again."""

import json
from collections.abc import Iterator
from typing import Any

import torch

from deme import files, tensors
from deme.config import make
from deme.data import ImageData
from deme.metrics import statistics_file
from deme.metrics.denoising_loss import denoising_loss, fixed_triples
from deme.metrics.features import FeatureExtractor
from deme.metrics.fingerprint import MOMENTS_TOLERANCE, TOLERANCE, differences, fingerprints, moments_error
from deme.metrics.frechet import FrechetDistance
from deme.ranges import uniform
from deme.runs import Run
from deme.seeds import generator
from deme.stages.common import Compute, Loaded
from deme.stages.extractors import extractors_of, reference_of
from deme.stages.measure import loss_rows
from deme.stages.sources import source_of

NUMBER_TOLERANCE = 1e-6  # relative, or absolute below 1: the n x n route and the moments round differently
LOSS_TOLERANCE = 1e-3  # relative, per image and range
LOSS_IMAGES = 16

Finding = tuple[bool, str]


def audit(run: Run, num_images: int, pick_seed: int | None, batch_size: int) -> list[Finding]:
    """Return every check with its outcome."""
    stored = files.read_json(run.path / "metrics.json")["metrics"]
    run.config["batch_size"] = batch_size
    compute = Compute.of(run.config)
    data = make(run.config["data"])
    source = source_of(run, data, compute)
    extractors = extractors_of(run.config, compute.device)
    picks = _picks(source.total, num_images, pick_seed)
    audited: set[str] = set()
    found: list[Finding] = []
    again: dict[str, list[torch.Tensor]] = {extractor.suffix: [] for extractor in extractors}
    if extractors:
        for pixels in source.pixels(picks):
            for extractor in extractors:
                again[extractor.suffix].append(fingerprints(extractor(pixels), extractor.name))
    for extractor in extractors:
        audited.add(extractor.frechet_name)
        found += _distance(run, data, extractor, stored, torch.cat(again[extractor.suffix]), picks, compute)
    if source.loaded is not None:
        audited |= {name for name in stored if name.partition("/")[0] == "loss"}
        found += _loss(run, data, source.loaded, stored, compute, picks)
    rest = sorted(set(stored) - audited)
    if rest:
        found.append((True, f"not audited, they do not follow from moments: {', '.join(rest)}"))
    return found


def _picks(total: int, count: int, seed: int | None) -> list[int]:
    draw = generator("verify", seed) if seed is not None else torch.Generator()
    if seed is None:
        draw.seed()
    return sorted(torch.randperm(total, generator=draw)[:count].tolist())


def _distance(
    run: Run,
    data: ImageData,
    extractor: FeatureExtractor,
    stored: dict[str, Any],
    again: torch.Tensor,
    picks: list[int],
    compute: Compute,
) -> Iterator[Finding]:
    name, folder = extractor.frechet_name, run.path / "moments"
    statistics = statistics_file.load(folder / f"{extractor.suffix}.safetensors")
    prints = tensors.TensorFile(folder / f"{extractor.suffix}_fingerprints.safetensors").read("fingerprints")
    n = run.config["num_images"]
    counts = (statistics.count, len(prints), stored.get(name, {}).get("n"))
    yield counts == (n, n, n), f"{name}: {n:,} images were asked for; moments, fingerprints and number are of {counts}"
    error = moments_error(prints, statistics, extractor.name)
    yield (
        error <= MOMENTS_TOLERANCE,
        (
            f"{name}: moments and fingerprints belong together, to {error:.1e} standard deviations (allowed {MOMENTS_TOLERANCE:g})"
        ),
    )
    value = FrechetDistance(reference_of(run.config, data, extractor).statistics, compute.device)(statistics)
    said = stored.get(name, {}).get("value", float("nan"))
    yield (
        abs(value - said) <= NUMBER_TOLERANCE * max(1.0, abs(value)),
        (f"{name}: the moments give {value:.6f}, metrics.json says {said:.6f} (allowed {NUMBER_TOLERANCE:g})"),
    )
    apart = differences(again, prints[picks], prints)
    yield (
        float(apart.max()) <= TOLERANCE,
        (
            f"{name}: {len(picks)} images made again differ by {float(apart.median()):.1e} standard deviations, at most "
            f"{float(apart.max()):.1e} (allowed {TOLERANCE:g}; images {picks[0]} to {picks[-1]})"
        ),
    )


def _loss(
    run: Run, data: ImageData, loaded: Loaded, stored: dict[str, Any], compute: Compute, picks: list[int]
) -> Iterator[Finding]:
    settings, model = run.config["metrics"]["loss"], loaded.model
    losses = tensors.TensorFile(run.path / "moments" / "loss.safetensors").read("losses")
    ranges = uniform(settings["num_ranges"], model.schedule.num_timesteps)
    values = {name: float(v.mean()) for name, v in loss_rows(losses, ranges, model.schedule.num_timesteps).items()}
    wrong = [n for n, v in values.items() if n not in stored or not abs(v - stored[n]["value"]) <= 1e-9 * abs(v)]
    yield not wrong, f"loss: metrics.json says what the losses of {losses.shape[1]} images give{_but(wrong)}"
    draw = generator("verify losses", json.dumps(picks))
    rows = sorted(torch.randperm(len(data.held_out), generator=draw)[:LOSS_IMAGES].tolist())
    triples = fixed_triples(data.held_out, ranges, settings["draws"], settings["seed"]).of(rows)
    again = denoising_loss(loaded.exact, model.schedule, model.prediction_type, triples, compute.device)
    apart = float(((again - losses[:, rows]).abs() / losses[:, rows].abs().clamp_min(1e-12)).max())
    yield (
        apart <= LOSS_TOLERANCE,
        (
            f"loss: those of {len(rows)} images measured again differ by at most {apart:.1e} of their size (allowed {LOSS_TOLERANCE:g})"
        ),
    )


def _but(wrong: list[str]) -> str:
    return f", but not for {', '.join(wrong)}" if wrong else ""
