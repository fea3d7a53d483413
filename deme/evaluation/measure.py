"""The numbers of an evaluation, each with its count of images, its reference and its bootstrap replicates.

Replicate r resamples by (seed, r, number of images) alone, so the replicates of two models from the same noise are paired;
of scores it resamples prompts, by (r, number of prompts) alone.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.data import encode_images
from deme.builders.metrics import load_extractors, load_reference, load_scores
from deme.builders.models import Loaded
from deme.data import ImageData
from deme.diffusion.ranges import TimestepRange
from deme.diffusion.seeds import generator
from deme.evaluation.images import make_images
from deme.evaluation.labels import NEIGHBOURS, distance_labels, interval, loss_labels, loss_ranges
from deme.evaluation.scores import measure_score, parts_of
from deme.evaluation.sources import source_of
from deme.metrics import neighbours, statistics_file
from deme.metrics.bootstrap import resample_counts, resampled_means
from deme.metrics.denoising_loss import denoising_loss, fixed_triples
from deme.metrics.features import FeatureExtractor
from deme.metrics.fingerprint import fingerprints
from deme.metrics.frechet import FrechetDistance
from deme.metrics.kernel import kernel_distance
from deme.metrics.reference import Reference, subset
from deme.metrics.shards import FeatureShards
from deme.metrics.statistics import Statistics
from deme.runs.run import Run, say
from deme.runs.settings.base import build
from deme.runs.settings.groups import MetricsSettings, PathsSettings
from deme.system import files, tensors
from deme.system.errors import BadConfig
from deme.system.paths import cache_folder

PROGRESS_SECONDS = 15

Metrics = dict[str, dict[str, Any]]
Replicates = dict[str, list[float]]


def measure(run: Run, compute: Compute) -> tuple[Metrics, Replicates]:
    """Measure what the run's source gives: a model, unmerged experts, a folder of images, or real data."""
    config = run.config
    source = source_of(run, compute)
    metrics: Metrics = {}
    replicates: Replicates = {}
    settings, cache = (
        build(MetricsSettings, config["metrics"]),
        cache_folder(build(PathsSettings, config["paths"])),
    )
    extractors = load_extractors(settings, compute.device)
    scores = load_scores(settings, compute.device)
    if scores and source.prompts is None:
        raise BadConfig(
            "metrics.scores compare generated images to their prompts, and there are none here\n"
            "type: metrics=<an option without scores>, or source=weights with a model=text_to_image"
        )
    if source.loaded is not None and config["metrics"]["loss"] is not None:
        loss_ranges(
            config["metrics"]["loss"], source.loaded.model.schedule.num_timesteps
        )  # before images are drawn
    if extractors or scores or config["save_images"]:
        parts = [
            parts_of(score, source.prompts, source.total)
            for score in scores
            if source.prompts is not None
        ]
        references = {
            extractor.suffix: load_reference(settings, source.data, extractor, cache)
            for extractor in extractors
        }
        shards = make_images(run, source, [*extractors, *scores])
        for extractor in extractors:
            distances = _real if config["source"] == "real" else _distances
            more, spread = distances(
                run, shards, extractor, references[extractor.suffix], compute.device
            )
            metrics |= more
            replicates |= spread
        for score, asked in zip(scores, parts, strict=True):
            more, spread = measure_score(run, shards, score, asked)
            metrics |= more
            replicates |= spread
    if source.loaded is not None and config["metrics"]["loss"] is not None:
        held_out = held_out_of(run.config, source.data, source.loaded, compute.device)
        more, spread = _loss(run, held_out, source.loaded, compute.device)
        metrics |= more
        replicates |= spread
    for name, values in replicates.items():
        if "std" not in metrics[name]:
            metrics[name]["interval"] = interval(metrics[name]["value"], values)
    return metrics, replicates


def _statistics(
    shards: FeatureShards, suffix: str, device: str, counts: Tensor | None = None
) -> Statistics:
    """Return the statistics of all images, or of a resample of them, one shard in memory at a time."""
    statistics, first = Statistics(), 0
    for features in shards.read(suffix):
        rows = None if counts is None else counts[first : first + len(features)]
        statistics.update(features.to(device), rows)
        first += len(features)
    return statistics


def _bootstrap(run: Run, name: str, value: Callable[[int], float]) -> list[float]:
    """Return a value per resample; each is kept, so that a killed bootstrap goes on, and long work says how far it is."""
    journal = run.path / "samples" / f"resamples_{name}.jsonl"
    values = [float(each) for each in files.read_jsonl(journal)]
    files.write_jsonl(journal, values)
    count, done, began = run.config["metrics"]["replicates"], len(values), time.monotonic()
    said = began
    for r in range(done, count):
        values.append(value(r))
        files.append_line(journal, json.dumps(values[-1]))
        if (now := time.monotonic()) - said > PROGRESS_SECONDS:
            said = now
            left = (now - began) / (r + 1 - done) * (count - r - 1)
            say(f"  {run.path.name}: {name}, {r + 1}/{count} resamples, {left:.0f} s left")
    return values


def _distances(
    run: Run, shards: FeatureShards, extractor: FeatureExtractor, reference: Reference, device: str
) -> tuple[Metrics, Replicates]:
    """Frechet distance, KID, precision and recall on one extractor's features; moments and fingerprints for `deme verify`."""
    settings, seed = run.config["metrics"], run.config["sample_seed"]
    statistics = _statistics(shards, extractor.suffix, device)
    statistics_file.save(run.path / "moments" / f"{extractor.suffix}.safetensors", statistics)
    prints = torch.cat(
        [fingerprints(features, extractor.name) for features in shards.read(extractor.suffix)]
    )
    tensors.save(
        run.path / "moments" / f"{extractor.suffix}_fingerprints.safetensors",
        {"fingerprints": prints},
    )

    distance = FrechetDistance(reference.statistics, device)
    few = (
        torch.cat(list(shards.read(extractor.suffix)))
        if shards.total <= extractor.dimension
        else None
    )

    def resampled(r: int) -> float:
        counts = resample_counts(seed, r, shards.total)
        if few is not None:
            return distance.of_features(few, counts)
        return distance(_statistics(shards, extractor.suffix, device, counts))

    name = extractor.frechet_name
    found: dict[str, dict[str, float]] = {
        name: {"value": distance(statistics) if few is None else distance.of_features(few)}
    }
    replicates = {name: _bootstrap(run, name, resampled)}
    if reference.features is not None and (settings["kid"] or settings["nearest_k"]):
        features = subset(shards, extractor.suffix)
        if settings["kid"]:
            kid = kernel_distance(features, reference.features, device)
            name, count = f"kid_{extractor.suffix}", len(features)
            found[name] = {"value": kid.value, "standard_error": kid.standard_error}
            replicates[name] = [
                kid.value + float(resample_counts(seed, r, count).double() @ kid.shares) / count
                for r in range(settings["replicates"])
            ]
        if settings["nearest_k"]:
            near = neighbours.precision_recall(features, reference.features, settings["nearest_k"])
            found |= {f"{kind}_{extractor.suffix}": {"value": near[kind]} for kind in NEIGHBOURS}
    labels = distance_labels(run.config, extractor, reference, shards.total)
    return {name: {**found[name], **label} for name, label in labels.items()}, replicates


def _real(
    run: Run, shards: FeatureShards, extractor: FeatureExtractor, reference: Reference, device: str
) -> tuple[Metrics, Replicates]:
    """What real data would score: num_images draws with replacement from the training images, many times."""
    config = run.config
    distance = FrechetDistance(reference.statistics, device)

    def drawn(r: int) -> float:
        draw = generator("real", config["sample_seed"], r)
        rows = torch.randint(shards.total, (config["num_images"],), generator=draw)
        return distance(
            _statistics(
                shards, extractor.suffix, device, torch.bincount(rows, minlength=shards.total)
            )
        )

    values = _bootstrap(run, extractor.frechet_name, drawn)
    spread = torch.tensor(values, dtype=torch.float64)
    name = extractor.frechet_name
    label = distance_labels(config, extractor, reference, config["num_images"])[name]
    return {name: {"value": float(spread.mean()), "std": float(spread.std()), **label}}, {
        name: values
    }


def _loss(run: Run, held_out: Any, loaded: Loaded, device: str) -> tuple[Metrics, Replicates]:
    """Held-out denoising loss, in float32: "loss" over all timesteps, "loss/i" in range i."""
    settings, model = run.config["metrics"]["loss"], loaded.model
    ranges = loss_ranges(settings, model.schedule.num_timesteps)
    triples = fixed_triples(held_out, ranges, settings["draws"], settings["seed"])
    batch = run.config["batch_size"]
    losses = denoising_loss(
        loaded.exact, model.schedule, model.prediction_type, triples, device, batch
    )
    rows = loss_rows(losses, ranges, model.schedule.num_timesteps)
    tensors.save(
        run.path / "moments" / "loss.safetensors", {"losses": losses, "loss": rows["loss"]}
    )
    labels = loss_labels(run.config, held_out, model.schedule.num_timesteps)
    metrics = {
        name: {"value": float(values.mean()), **labels[name]} for name, values in rows.items()
    }
    return metrics, {name: loss_replicates(run.config, values) for name, values in rows.items()}


def held_out_of(config: dict[str, Any], data: ImageData | None, loaded: Loaded, device: str) -> Any:
    """Return the held-out images as the model sees them. Raises BadConfig if there is no data set."""
    if data is None:
        raise BadConfig(
            "the held-out loss needs held-out images, and data=none\ntype: data=<option>, or metrics.loss=null"
        )
    return encode_images(
        loaded.model, data.held_out, device, cache_folder(build(PathsSettings, config["paths"]))
    )


def loss_replicates(config: dict[str, Any], values: Tensor) -> list[float]:
    """Return the mean of resampled losses of images [M], a number per resample."""
    return resampled_means(
        config["metrics"]["loss"]["seed"], values, config["metrics"]["replicates"]
    )


def loss_rows(losses: Tensor, ranges: list[TimestepRange], num_timesteps: int) -> dict[str, Tensor]:
    """Return the loss of each image [M] from losses per range and image [R, M]: "loss" over all timesteps, "loss/i" in range i."""
    share = torch.tensor([len(r) for r in ranges], dtype=torch.float64) / num_timesteps
    return {"loss": (share[:, None] * losses).sum(0)} | {
        f"loss/{i}": losses[i] for i in range(len(ranges))
    }
