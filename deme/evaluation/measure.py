"""The metrics of an evaluation, each with its label and its bootstrap replicates.

Replicate r resamples by (seed, r, number of images) alone, so the replicates of two models from the
same noise are paired; of scores it resamples prompts, by (r, number of prompts) alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deme.builders import (
    Compute,
    Loaded,
    encode_images,
    load_extractors,
    load_reference,
    load_scores,
)
from deme.data import EncodedDataset, ImageData, Images
from deme.diffusion import TimestepRange, generator
from deme.evaluation.images import make_images
from deme.evaluation.labels import Metric, distance_labels, loss_labels, loss_ranges
from deme.evaluation.scores import Part, measure_score, parts_of
from deme.evaluation.sources import Source, load_source
from deme.metrics import (
    FeatureExtractor,
    FeatureShards,
    FrechetDistance,
    Reference,
    Statistics,
    TextScore,
    denoising_loss,
    fixed_triples,
    kernel_distance,
    precision_recall,
    resample_counts,
    resampled_means,
    statistics_file,
    subset,
)
from deme.metrics.fingerprint import fingerprints
from deme.runs import EvaluateSettings, LossMetricSettings, Run
from deme.system import BadConfig, cache_folder, files, tensors, tracked

Metrics = dict[str, Metric]


def measure(run: Run, settings: EvaluateSettings, compute: Compute) -> Metrics:
    """Measure the images and the model of a run's source; see docs/metrics.md."""
    source, device = load_source(run, settings, compute), compute.device
    moments, loss, loaded = run.path / "moments", settings.metrics.loss, source.loaded
    if loss is not None and loaded is not None:  # before images are generated
        loss_ranges(loss, loaded.model.schedule.num_timesteps)
    distances, scores = load_networks(settings, source, device)
    metrics: Metrics = {}
    if settings.needs_images:
        networks = [network for network, _ in (*distances, *scores)]
        shards = make_images(run, settings, source, networks)
        for extractor, reference in distances:
            features = _Features(shards, extractor, reference, device)
            metrics |= (
                _real(features, settings)
                if settings.source == "real"
                else _distances(features, settings, moments)
            )
        for score, parts in scores:
            metrics |= measure_score(moments, shards, score, parts, settings.metrics.replicates)
    if loss is not None and loaded is not None:
        held_out = held_out_images(settings, source.data, loaded, device)
        metrics |= _loss(settings, loss, held_out, loaded, device, moments)
    return metrics


def load_networks(
    settings: EvaluateSettings, source: Source, device: str
) -> tuple[list[tuple[FeatureExtractor, Reference]], list[tuple[TextScore, list[Part]]]]:
    """Return the extractors with their references, and the scores with their metrics.

    Raises BadConfig for scores where there are no prompts.
    """
    metrics, prompts, cache = settings.metrics, source.prompts, cache_folder(settings.paths)
    extractors = load_extractors(metrics, source.data, cache, device)
    scores = load_scores(metrics, device)
    if scores and prompts is None:
        raise BadConfig(
            "metrics.scores compare generated images to their prompts, and there are none here\n"
            "type: metrics=<option without scores>, "
            "or source=weights with a text-conditioned model=<option>"
        )
    parts = [(s, list(parts_of(s, prompts, source.total))) for s in scores if prompts is not None]
    return [(each, load_reference(metrics, source.data, each, cache)) for each in extractors], parts


@dataclass(frozen=True)
class _Features:
    """One extractor's features of a run's images, and the reference that they are compared to."""

    shards: FeatureShards
    extractor: FeatureExtractor
    reference: Reference
    device: str

    def statistics(self, counts: Tensor | None = None) -> Statistics:
        """Return those of all images, or of a resample, with one shard in memory at a time."""
        found, first = Statistics(), 0
        for features in self.shards.read(self.extractor.suffix):
            rows = None if counts is None else counts[first : first + len(features)]
            found.update(features.to(self.device), rows)
            first += len(features)
        return found

    def bootstrap(self, count: int, value: Callable[[int], float]) -> list[float]:
        """Return a value per resample of the Frechet distance; each is kept for a resumed run."""
        name = self.extractor.frechet_name
        journal = self.shards.folder / f"resamples_{name}.jsonl"
        values = files.reopen_jsonl(journal, float)
        missing = range(len(values), count)
        for r in tracked(missing, f"bootstrap of {name}", count, "resamples", start=len(values)):
            values.append(value(r))
            files.append_line(journal, json.dumps(values[-1]))
        return values


def _distances(of: _Features, settings: EvaluateSettings, moments: Path) -> Metrics:
    """Frechet distance, KID, precision and recall; moments and fingerprints are for verify."""
    metrics, seed = settings.metrics, settings.sample_seed
    extractor, shards = of.extractor, of.shards
    suffix, total = extractor.suffix, shards.total
    statistics = of.statistics()
    statistics_file.save(moments / f"{suffix}.safetensors", statistics)
    prints = [fingerprints(features, extractor.name) for features in shards.read(suffix)]
    tensors.save(
        moments / f"{suffix}_fingerprints.safetensors", {"fingerprints": torch.cat(prints)}
    )
    distance = FrechetDistance(of.reference.statistics, of.device)
    few = torch.cat(list(shards.read(suffix))) if total <= extractor.dimension else None

    def resampled(r: int) -> float:
        counts = resample_counts(seed, r, total)
        if few is not None:
            return distance.of_features(few, counts)
        return distance(of.statistics(counts))

    labels = distance_labels(metrics, extractor, of.reference, total)
    name = extractor.frechet_name
    value = distance(statistics) if few is None else distance.of_features(few)
    found = {name: Metric(value, labels[name], of.bootstrap(metrics.replicates, resampled))}
    if of.reference.features is None or not (metrics.kid or metrics.nearest_k):
        return found
    features = subset(shards, suffix)
    if metrics.kid:
        kid = kernel_distance(features, of.reference.features, of.device)
        name, count = f"kid_{suffix}", len(features)
        replicates = [
            kid.value + float(resample_counts(seed, r, count).double() @ kid.shares) / count
            for r in range(metrics.replicates)
        ]
        found[name] = Metric(
            kid.value, labels[name], replicates, {"standard_error": kid.standard_error}
        )
    if metrics.nearest_k:
        for kind, value in precision_recall(
            features, of.reference.features, metrics.nearest_k
        ).items():
            found[f"{kind}_{suffix}"] = Metric(value, labels[f"{kind}_{suffix}"])
    return found


def _real(of: _Features, settings: EvaluateSettings) -> Metrics:
    """The Frechet distance of real images: `num_images` draws with replacement, many times."""
    distance, total = FrechetDistance(of.reference.statistics, of.device), of.shards.total

    def resampled(r: int) -> float:
        draw = generator("real", settings.sample_seed, r)
        rows = torch.randint(total, (settings.num_images,), generator=draw)
        return distance(of.statistics(torch.bincount(rows, minlength=total)))

    values = of.bootstrap(settings.metrics.replicates, resampled)
    spread, name = torch.tensor(values, dtype=torch.float64), of.extractor.frechet_name
    labels = distance_labels(settings.metrics, of.extractor, of.reference, settings.num_images)
    return {name: Metric(float(spread.mean()), labels[name], values, {"std": float(spread.std())})}


def _loss(
    settings: EvaluateSettings,
    loss: LossMetricSettings,
    held_out: Images | EncodedDataset,
    loaded: Loaded,
    device: str,
    moments: Path,
) -> Metrics:
    """Held-out denoising loss, in float32: "loss" over all timesteps, "loss/i" in range i."""
    model = loaded.model
    num_timesteps = model.schedule.num_timesteps
    ranges = loss_ranges(loss, num_timesteps)
    losses = denoising_loss(
        loaded.exact,
        model.schedule,
        model.prediction_type,
        fixed_triples(held_out, ranges, loss.draws, loss.seed),
        device,
        settings.batch_size,
    )
    rows = loss_rows(losses, ranges, num_timesteps)
    tensors.save(moments / "loss.safetensors", {"losses": losses, "loss": rows["loss"]})
    labels, replicates = loss_labels(loss, held_out, num_timesteps), settings.metrics.replicates
    return {
        name: Metric(
            float(values.mean()), labels[name], resampled_means(loss.seed, values, replicates)
        )
        for name, values in rows.items()
    }


def held_out_images(
    settings: EvaluateSettings, data: ImageData | None, loaded: Loaded, device: str
) -> Images | EncodedDataset:
    """Return the held-out images as the model sees them. Raises BadConfig without a data set."""
    if data is None:
        raise BadConfig(
            "the held-out loss needs held-out images, and data=none\n"
            "type: data=<option>, or metrics.loss=null"
        )
    return encode_images(loaded.model, data.held_out, device, cache_folder(settings.paths))


def loss_rows(losses: Tensor, ranges: list[TimestepRange], num_timesteps: int) -> dict[str, Tensor]:
    """Return the loss of each image [M], from losses per range and image [R, M].

    "loss" is that over all timesteps, "loss/i" that in range i.
    """
    share = torch.tensor([len(r) for r in ranges], dtype=torch.float64) / num_timesteps
    return {
        "loss": (share[:, None] * losses).sum(0),
        **{f"loss/{i}": losses[i] for i in range(len(ranges))},
    }
