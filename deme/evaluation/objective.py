"""What `deme search` minimizes, as a function of merge weights.

Candidates are scored on training images: held-out images are for the report.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch

from deme.builders import (
    Compute,
    check_sampler,
    encode_images,
    generate_images,
    guided,
    load_data,
    load_extractors,
    load_prompts,
    load_reference,
)
from deme.data import ImageData, SomeImages
from deme.data.decode import resized
from deme.data.prompts import Prompts
from deme.diffusion import generator
from deme.evaluation.denoising_error import DenoisingError
from deme.evaluation.labels import distance_labels, loss_ranges
from deme.evaluation.merged_model import LiveModel
from deme.merging.plan import MergePlan
from deme.merging.search import Objective
from deme.metrics import (
    FeatureExtractor,
    FrechetDistance,
    Reference,
    Statistics,
    fixed_triples,
    kernel_distance,
)
from deme.runs import SearchSettings, instantiate
from deme.sampling.guided import ClassifierFreeGuidance
from deme.sampling.sampler import Sampler
from deme.system import BadConfig, NotFinite, cache_folder

DISTILLATION = ("distillation", "relative_distillation")  # objectives with the experts as target


@dataclass(frozen=True)
class Scored:
    """What a search works on: the objective, its name and label, and the model that it sets."""

    plan: MergePlan
    metric: str
    label: Mapping[str, object]
    objective: Objective
    live: LiveModel


def build_objective(settings: SearchSettings, plan: MergePlan) -> Scored:
    """Return the objective of a search, of which lower values are better.

    `objective=frechet`, `kid`: distance of generated images to the training images on the feature
    extractor of `metrics`; all candidates' images start from the same noise.
    `loss`, `loss/<i>`: denoising loss of training images on fixed (x0, t, eps), in all ranges or in
    range i.
    `distillation`: squared distance to the predictions of the unmerged experts, each in its range
    (docs/method.md#distillation-objective).
    `relative_distillation`: the same, in each range divided by the distance of the base.
    """
    compute = Compute.of(settings.compute)
    live = LiveModel(plan, settings.merge_without_sum, settings.granularity, compute.device)
    data = load_data(settings.data, settings.paths, live.model.image_shape)
    build = _image_distance if settings.generates_images else _denoising_error
    return build(settings, plan, live, compute, data)


def _image_distance(
    settings: SearchSettings,
    plan: MergePlan,
    live: LiveModel,
    compute: Compute,
    data: ImageData | None,
) -> Scored:
    cache = cache_folder(settings.paths)
    (extractor,) = load_extractors(settings.metrics, data, cache, compute.device)
    metrics = replace(settings.metrics, reference="train", statistics={}, kid=True)
    reference = load_reference(metrics, data, extractor, cache)
    labels = distance_labels(metrics, extractor, reference, settings.num_images)
    check_sampler(settings.sampler, live.model)
    training = ImageData(data.train, data.train) if data is not None else None
    prompts = load_prompts(settings.prompts, live.model, training, settings.num_images)
    kid = settings.resolved_objective == "kid"
    name = f"kid_{extractor.suffix}" if kid else extractor.frechet_name
    objective = ImageDistance(settings, live, compute, extractor, reference, prompts)
    return Scored(plan, name, labels[name], objective, live)


class ImageDistance:
    """Distance of generated images to the training images, from the same noise for all weights."""

    def __init__(
        self,
        settings: SearchSettings,
        live: LiveModel,
        compute: Compute,
        extractor: FeatureExtractor,
        reference: Reference,
        prompts: Prompts | None,
    ) -> None:
        self.settings, self.live, self.compute = settings, live, compute
        self.extractor, self.prompts = extractor, prompts
        self.sampler: Sampler = instantiate(settings.sampler)
        self.network = guided(compute.network(live.model), live.model, settings.guidance_scale)
        self.reference_features = (
            reference.features if settings.resolved_objective == "kid" else None
        )
        self.frechet = FrechetDistance(reference.statistics, compute.device)
        # PNDM repeats a timestep; guidance evaluates the network twice
        steps = len(self.sampler.scheduler(live.model.sampler_config).timesteps)
        twice = isinstance(self.network, ClassifierFreeGuidance)
        self.num_forward_passes_per_image = steps * (2 if twice else 1)

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images are generated."""
        return max(2, round(fraction * self.settings.num_images))

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the distance, infinite for weights whose images are NaN or infinite."""
        self.live.set_weights(weights)
        settings, device = self.settings, self.compute.device
        batches = generate_images(
            self.network,
            self.live.model,
            self.sampler,
            settings.sample_seed,
            range(self.num_images(fraction)),
            settings.batch_size,
            device,
            self.prompts,
        )
        features = (self.extractor(resized(pixels, settings.metrics.size)) for pixels in batches)
        with contextlib.suppress(NotFinite):
            if self.reference_features is None:
                return self.frechet(reduce(Statistics.update, features, Statistics()))
            return kernel_distance(torch.cat(list(features)), self.reference_features, device).value
        return math.inf

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:  # noqa: ARG002
        """Raise BadConfig: the distance is not differentiated through the sampler."""
        raise BadConfig(
            "a distance of images has no gradient here\n"
            "type: objective=loss or objective=distillation, or another search="
        )


def _denoising_error(
    settings: SearchSettings,
    plan: MergePlan,
    live: LiveModel,
    compute: Compute,
    data: ImageData | None,
) -> Scored:
    model, name, loss = live.model, settings.resolved_objective, settings.metrics.loss
    assert data is not None  # SearchSettings checked both
    assert loss is not None
    num_timesteps = model.schedule.num_timesteps
    ranges = loss_ranges(loss, num_timesteps)
    if name in DISTILLATION:
        ranges = [expert.range for expert in plan.experts if expert.range is not None]
        if not ranges:
            raise BadConfig(
                f"objective={name} needs experts whose deme.json names their timestep ranges\n"
                "type: objective=loss"
            )
    per_range = [f"loss/{i}" for i in range(len(ranges))]
    names = ["loss", *DISTILLATION, *per_range]
    if name not in names:
        raise BadConfig(f"objective must be frechet, kid, {', '.join(names)}; got {name!r}")
    shares = torch.tensor([len(item) for item in ranges], dtype=torch.float64) / num_timesteps
    if name.startswith("loss/"):
        shares = torch.eye(len(ranges), dtype=torch.float64)[int(name[5:])]
    # not sorted: fractions use the first images, which must not be of particular classes
    draw = generator("search", settings.sample_seed)
    chosen = torch.randperm(len(data.train), generator=draw)[: settings.num_images].tolist()
    encoded = encode_images(
        model, SomeImages(data.train, chosen), compute.device, cache_folder(settings.paths)
    )
    triples = fixed_triples(encoded, ranges, 1, settings.sample_seed)
    label = {
        "n": int((shares > 0).sum()) * len(chosen),
        "reference": f"{len(chosen):,} training images",
        "better": "lower",
        "implementation": "deme.evaluation.objective, 1 draw an image and range, "
        f"seed {settings.sample_seed}",
    }
    objective = DenoisingError(
        live, triples, ranges, shares, compute.device, settings.batch_size, name in DISTILLATION
    )
    if name == "relative_distillation":
        objective.divide_by_base()
    return Scored(plan, name, label, objective, live)
