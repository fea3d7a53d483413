"""The numbers of an evaluation, each with its count of images, its reference and its bootstrap replicates.

Replicate r resamples by (seed, r) alone, so the replicates of two models from the same noise are paired.
"""

import time
from typing import Any

import torch
from torch import Tensor

from deme import files, tensors
from deme.config import make
from deme.data import ImageData, every
from deme.inputs import weights_folder
from deme.metrics.bootstrap import resample_counts
from deme.metrics.denoising_loss import denoising_loss, fixed_triples
from deme.metrics.frechet import FrechetDistance
from deme.metrics.statistics import Statistics
from deme.models.unconditional import UnconditionalModel, load
from deme.ranges import TimestepRange, uniform
from deme.runs import Run, say
from deme.sampling.generate import generate
from deme.sampling.grid import image_grid
from deme.seeds import generator
from deme.stages.common import Compute, Network, base_folder, experts_of, routed

Metrics = dict[str, dict[str, Any]]
Replicates = dict[str, list[float]]

GRID_IMAGES = 64


def measure_model(run: Run, data: ImageData, compute: Compute) -> tuple[Metrics, Replicates]:
    """Measure a model, or unmerged experts."""
    model, network = _network(run, compute.device)
    metrics, replicates = _loss(run, data, model, network, compute.device)
    if run.config["metrics"]["features"]:
        features = _features(run, model, network, compute.device)
        more, more_replicates = _distance(run, data, features)
        metrics, replicates = more | metrics, more_replicates | replicates
    return metrics, replicates


def _network(run: Run, device: str) -> tuple[UnconditionalModel, Network]:
    if run.config["source"] == "experts":
        return routed(experts_of(run), device)
    given = run.one("weights")
    model = load(str(weights_folder(given) if given else base_folder(run.config))).to(device)
    return model, model


def _loss(
    run: Run, data: ImageData, model: UnconditionalModel, network: Network, device: str
) -> tuple[Metrics, Replicates]:
    """Held-out denoising loss: "loss" over all timesteps, "loss/i" in range i."""
    settings = run.config["metrics"]["loss"]
    ranges = uniform(settings["num_ranges"], model.schedule.num_timesteps)
    triples = fixed_triples(data.held_out, ranges, settings["draws"], settings["seed"])
    losses = denoising_loss(network, model.schedule, model.prediction_type, triples, device)
    share = torch.tensor([len(r) for r in ranges], dtype=torch.float64) / model.schedule.num_timesteps
    rows = {"loss": (share[:, None] * losses).sum(0)} | {f"loss/{i}": losses[i] for i in range(len(ranges))}
    about = {
        "reference": f"{len(data.held_out)} held-out images",
        "implementation": "deme.metrics.denoising_loss",
    }
    metrics, replicates = {}, {}
    count = losses.shape[1]
    for name, values in rows.items():
        where = ranges[int(name[5:])] if "/" in name else TimestepRange(0, model.schedule.num_timesteps)
        num_triples = triples.t.numel() // (len(ranges) if "/" in name else 1)
        metrics[name] = {"value": float(values.mean()), "n": num_triples, **about, "range": str(where)}
        replicates[name] = [
            float(resample_counts(settings["seed"], r, count).double() @ values / count)
            for r in range(run.config["metrics"]["replicates"])
        ]
    return metrics, replicates


def _features(run: Run, model: UnconditionalModel, network: Network, device: str) -> Tensor:
    """Generate the images shard by shard; features of finished shards are kept until the end, so a kill loses one shard."""
    config = run.config
    extractor, sampler = make(config["metrics"]["features"]), make(config["sampler"])
    total, shard = config["num_images"], config["shard_size"]
    places = []
    began, fresh = time.monotonic(), 0
    for first in range(0, total, shard):
        count = min(shard, total - first)
        place = run.path / "samples" / f"features_{first:07d}.safetensors"
        places.append(place)
        if place.exists():
            continue
        batches: list[Tensor] = []
        for pixels in generate(
            network,
            model.scheduler_config,
            model.image_shape,
            sampler,
            config["sample_seed"],
            first,
            count,
            config["batch_size"],
            device,
        ):
            if first == 0 and not batches:
                with files.atomic(run.path / "samples" / "grid.png") as file:
                    image_grid(pixels[:GRID_IMAGES]).save(file, format="PNG")
            batches.append(extractor(pixels))
        tensors.save(place, {"features": torch.cat(batches)})
        fresh += count
        left = (time.monotonic() - began) / fresh * (total - first - count)
        say(f"  {run.path.name}: {first + count}/{total} images, {left:.0f} s left")
    return torch.cat([tensors.TensorFile(place).read("features") for place in places])


def _distance(run: Run, data: ImageData, features: Tensor) -> tuple[Metrics, Replicates]:
    config = run.config
    name, extractor = config["metrics"]["name"], make(config["metrics"]["features"])
    distance = FrechetDistance(Statistics().update(extractor(every(data.held_out))))
    value = distance(Statistics().update(features))
    replicates = [
        distance(Statistics().update(features, resample_counts(config["sample_seed"], r, len(features))))
        for r in range(config["metrics"]["replicates"])
    ]
    about = {
        "n": len(features),
        "reference": f"{len(data.held_out)} held-out images",
        "implementation": f"deme.metrics.frechet on {extractor.name}",
    }
    return {name: {"value": value, **about}}, {name: replicates}


def measure_real(run: Run, data: ImageData) -> tuple[Metrics, Replicates]:
    """Measure what real data would score: num_images draws with replacement from the training images, many times."""
    config = run.config
    name, extractor = config["metrics"]["name"], make(config["metrics"]["features"])
    distance = FrechetDistance(Statistics().update(extractor(every(data.held_out))))
    features = extractor(every(data.train))
    values = []
    for r in range(config["metrics"]["replicates"]):
        rows = torch.randint(
            len(features), (config["num_images"],), generator=generator("real", config["sample_seed"], r)
        )
        values.append(distance(Statistics().update(features, torch.bincount(rows, minlength=len(features)))))
    spread = torch.tensor(values, dtype=torch.float64)
    pixels = data.train.__getitems__(list(range(min(GRID_IMAGES, len(data.train)))))
    with files.atomic(run.path / "samples" / "grid.png") as file:
        image_grid(pixels).save(file, format="PNG")
    metric = {
        "value": float(spread.mean()),
        "std": float(spread.std()),
        "n": config["num_images"],
        "reference": f"{len(data.held_out)} held-out images",
        "implementation": f"deme.metrics.frechet on {extractor.name}",
    }
    return {name: metric}, {name: values}
