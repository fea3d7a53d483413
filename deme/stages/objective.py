"""What `deme search` minimises, as a function of merge weights: distance of images to the training images, or their loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from deme.config import make
from deme.data import SomeImages
from deme.errors import BadConfig
from deme.merging.plan import Expert
from deme.merging.task_vectors import merge_into
from deme.metrics.denoising_loss import denoising_loss, fixed_triples
from deme.metrics.frechet import FrechetDistance
from deme.metrics.statistics import Statistics
from deme.models.unconditional import UnconditionalModel, load
from deme.ranges import uniform
from deme.runs import Run
from deme.sampling.generate import generate
from deme.seeds import generator
from deme.stages.common import Compute, base_folder, data_of
from deme.stages.extractors import extractors_of, reference_of
from deme.stages.labels import distance_labels
from deme.stages.merge import combine_of

Score = Callable[[list[float]], float]


def objective_of(run: Run, experts: Sequence[Expert]) -> tuple[str, dict[str, Any], Score]:
    """Return a name, its label, and merge weights -> score; lower is better.

    With a feature extractor: the Frechet distance of images from shared noise to the training images. Without: the
    denoising loss of training images on fixed triples. Held-out images are for the report.
    """
    config = run.config
    compute = Compute.of(config)
    extractors = extractors_of(config, compute.device)
    if len(extractors) > 1:
        raise BadConfig(
            f"deme search scores generated images by one feature extractor; metrics.features names {len(extractors)}"
        )
    live = LiveMerge(config, experts, compute.device)
    if not extractors:
        return _loss(run, live, compute)
    (features,) = extractors
    # held-out images are for the report, and so is what a statistics file may be of
    training = {**config, "metrics": {**config["metrics"], "reference": "train", "statistics": {}}}
    reference = reference_of(training, data_of(config, live.model.image_shape, run.log), features)
    distance = FrechetDistance(reference.statistics, compute.device)
    sampler, model, network = make(config["sampler"]), live.model, compute.network(live.model)

    def score(weights: list[float]) -> float:
        live.merge(weights)
        statistics = Statistics()
        for pixels in generate(
            network,
            model.scheduler_config,
            model.image_shape,
            sampler,
            config["sample_seed"],
            range(config["num_images"]),
            config["batch_size"],
            compute.device,
        ):
            statistics.update(features(pixels))
        return distance(statistics)

    name = features.frechet_name
    return name, distance_labels(config, features, reference, config["num_images"])[name], score


def _loss(run: Run, live: "LiveMerge", compute: Compute) -> tuple[str, dict[str, Any], Score]:
    config, model, settings = run.config, live.model, run.config["metrics"]["loss"]
    images = data_of(config, model.image_shape, run.log).train
    chosen = torch.randperm(len(images), generator=generator("search", config["sample_seed"]))[: config["num_images"]]
    ranges = uniform(settings["num_ranges"], model.schedule.num_timesteps)
    triples = fixed_triples(SomeImages(images, sorted(chosen.tolist())), ranges, 1, config["sample_seed"])
    share = torch.tensor([len(item) for item in ranges], dtype=torch.float64) / model.schedule.num_timesteps

    def score(weights: list[float]) -> float:
        live.merge(weights)
        losses = denoising_loss(
            model, model.schedule, model.prediction_type, triples, compute.device, config["batch_size"]
        )
        return float((share * losses.mean(1)).sum())

    label = {
        "n": len(ranges) * len(chosen),
        "reference": f"{len(chosen):,} training images",
        "better": "lower",
        "implementation": f"deme.metrics.denoising_loss, 1 draw an image and range, seed {config['sample_seed']}",
    }
    return "loss", label, score


class LiveMerge:
    """A model in memory that becomes the merge of the experts with given weights, from the base each time."""

    def __init__(self, config: dict[str, Any], experts: Sequence[Expert], device: str) -> None:
        self.config = config
        self.model: UnconditionalModel = load(str(experts[0].folder)).to(device)
        base = load(str(base_folder(config)))
        if self.model.projections is not None:
            base.add_projections(self.model.projections.placement)
        self._base = base.to(device).state_dict()
        self._experts = [load(str(expert.folder)).to(device).state_dict() for expert in experts]

    def merge(self, weights: list[float]) -> None:
        """Overwrite the model's weights, wherever they lie by now."""
        merge_into(self.model.state_dict(), combine_of(self.config, weights), self._experts, self._base)
