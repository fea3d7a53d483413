"""What `deme search` minimises, as a function of merge weights; held-out images are for the report."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.data import encode_images, load_data
from deme.builders.metrics import load_extractors, load_reference
from deme.builders.models import guided
from deme.builders.prompts import check_sampler, generate_images, load_prompts
from deme.data import ImageData, SomeImages
from deme.data.decode import resized
from deme.data.prompts import Prompts
from deme.diffusion.conditioning import Condition, bind_condition
from deme.diffusion.ranges import TimestepRange
from deme.diffusion.seeds import generator
from deme.evaluation.labels import distance_labels, loss_ranges
from deme.evaluation.merged_model import LiveModel
from deme.merging.plan import MergePlan
from deme.merging.search import Objective
from deme.metrics.denoising_loss import Triples, fixed_triples, noised
from deme.metrics.frechet import FrechetDistance
from deme.metrics.kernel import kernel_distance
from deme.metrics.statistics import Statistics
from deme.runs.config import extractor_specs, instantiate
from deme.runs.run import Run
from deme.runs.settings.base import build
from deme.runs.settings.groups import (
    ComputeSettings,
    LossMetricSettings,
    MetricsSettings,
    PathsSettings,
)
from deme.sampling.guided import ClassifierFreeGuidance
from deme.system.errors import BadConfig
from deme.system.paths import cache_folder

Batch = tuple[
    int, Tensor, Tensor, Tensor, Condition
]  # range, x_t, t, what the network should answer, what it is told


def objective_of(run: Run, plan: MergePlan) -> tuple[str, dict[str, Any], Objective, LiveModel]:
    """Return a name, its label, merge weights -> score, lower is better, and the model that becomes the merge.

    `objective`: frechet or kid of images from shared noise to the training images, by the feature extractor of `metrics`; loss
    (denoising loss of training images on fixed triples), loss/<i> (in range i), distillation (squared distance to what the
    unmerged experts answer, each in its range; METHOD 3). None: frechet where there is an extractor, else loss.
    """
    config = run.config
    compute = Compute.of(build(ComputeSettings, config["compute"]))
    named = len(extractor_specs(config["metrics"]))
    if named > 1:
        raise BadConfig(
            f"deme search scores generated images by one feature extractor; metrics.features names {named}"
        )
    what = config["objective"] or ("frechet" if named else "loss")
    live = LiveModel(config, plan, compute.device)
    if what in ("frechet", "kid"):
        if not named:
            raise BadConfig(
                f"objective={what} needs a feature extractor\ntype: metrics=digits, metrics=fid_pytorch, ..."
            )
        (features,) = load_extractors(build(MetricsSettings, config["metrics"]), compute.device)
        return *_images(run, live, compute, features, what), live
    return *_triples(run, live, compute, plan, str(what)), live


def _images(
    run: Run, live: LiveModel, compute: Compute, features: Any, what: str
) -> tuple[str, Any, Objective]:
    config = run.config
    # held-out images are for the report, and so is what a statistics file may be of
    paths = build(PathsSettings, config["paths"])
    training = {**config, "metrics": {**config["metrics"], "reference": "train", "statistics": {}}}
    data = load_data(config["data"], paths, live.model.image_shape)
    reference = load_reference(
        build(MetricsSettings, training["metrics"]), data, features, cache_folder(paths)
    )
    assert data is not None
    labels = distance_labels(
        build(MetricsSettings, {**config["metrics"], "kid": True}),
        features,
        reference,
        config["num_images"],
    )
    check_sampler(config["sampler"], live.model)
    prompts = load_prompts(
        config["prompts"],
        live.model,
        ImageData(data.train, data.train),
        config["num_images"],
    )  # not of what the report judges by
    name = features.frechet_name if what == "frechet" else f"kid_{features.suffix}"
    if name not in labels:
        raise BadConfig(
            f"objective={what} needs the reference's features, which this reference does not hold"
        )
    return (
        name,
        labels[name],
        ImageDistance(config, live, compute, features, reference, what, prompts),
    )


class ImageDistance:
    """Distance of generated images, all candidates' from the same noise, to the training images."""

    def __init__(
        self,
        config: dict[str, Any],
        live: LiveModel,
        compute: Compute,
        features: Any,
        reference: Any,
        what: str,
        prompts: Prompts | None = None,
    ) -> None:
        self.prompts = prompts
        self.config, self.live, self.compute, self.features = config, live, compute, features
        network = compute.network(live.model)
        self.sampler, self.network = (
            instantiate(config["sampler"]),
            guided(network, live.model, config["guidance_scale"]),
        )
        self.reference = reference.features if what == "kid" else None
        steps = len(
            self.sampler.scheduler(live.model.scheduler_config).timesteps
        )  # PNDM takes one twice
        self.num_forward_passes_per_image = steps * (
            2 if isinstance(self.network, ClassifierFreeGuidance) else 1
        )
        self.frechet = FrechetDistance(reference.statistics, compute.device)

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images are generated."""
        return max(2, round(fraction * self.config["num_images"]))

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the distance."""
        self.live.set_weights(weights)
        config, model, statistics, kept = self.config, self.live.model, Statistics(), []
        for pixels in generate_images(
            self.network,
            model,
            self.sampler,
            config["sample_seed"],
            range(self.num_images(fraction)),
            config["batch_size"],
            self.compute.device,
            self.prompts,
        ):
            found = self.features(resized(pixels, config["metrics"]["size"]))
            if self.reference is None:
                statistics.update(found)
            else:
                kept.append(found)
        if self.reference is not None:
            return kernel_distance(torch.cat(kept), self.reference, self.compute.device).value
        return self.frechet(statistics)

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:  # noqa: ARG002
        """Raise BadConfig: images do not know where they come from."""
        raise BadConfig(
            "a distance of images has no gradient here\ntype: objective=loss or objective=distillation, or another search="
        )


def _triples(
    run: Run, live: LiveModel, compute: Compute, plan: MergePlan, what: str
) -> tuple[str, Any, Objective]:
    config, model, settings = run.config, live.model, run.config["metrics"]["loss"]
    num_timesteps = model.schedule.num_timesteps
    paths = build(PathsSettings, config["paths"])
    data = load_data(config["data"], paths, model.image_shape)
    if data is None or settings is None:
        raise BadConfig(
            f"objective={what} needs training images and metrics.loss\ntype: data=<option>, metrics=loss"
        )
    images = data.train
    chosen = torch.randperm(len(images), generator=generator("search", config["sample_seed"]))[
        : config["num_images"]
    ]
    ranges = loss_ranges(build(LossMetricSettings, settings), num_timesteps)
    if what == "distillation":
        ranges = [expert.range for expert in plan.experts if expert.range is not None]
        if not ranges:
            raise BadConfig(
                "objective=distillation needs experts whose deme.json names their timestep ranges\ntype: objective=loss"
            )
    names = ["loss", "distillation", *(f"loss/{i}" for i in range(len(ranges)))]
    if what not in names:
        raise BadConfig(f"objective must be frechet, kid, {', '.join(names)}; got {what!r}")
    shares = torch.tensor([len(item) for item in ranges], dtype=torch.float64) / num_timesteps
    if what.startswith("loss/"):
        shares = torch.eye(len(ranges), dtype=torch.float64)[int(what[5:])]
    # not sorted: the first images, which fractions take, are no particular classes
    seen = encode_images(
        model, SomeImages(images, chosen.tolist()), compute.device, cache_folder(paths)
    )
    triples = fixed_triples(seen, ranges, 1, config["sample_seed"])
    label = {
        "n": int((shares > 0).sum()) * len(chosen),
        "reference": f"{len(chosen):,} training images",
        "better": "lower",
        "implementation": f"deme.evaluation.objective, 1 draw an image and range, seed {config['sample_seed']}",
    }
    return (
        what,
        label,
        Denoising(
            live,
            triples,
            ranges,
            shares,
            compute.device,
            config["batch_size"],
            what == "distillation",
        ),
    )


class Denoising:
    """Squared error on fixed (x0, t, eps): to the noise, or to what the expert of each range answers. It has a gradient."""

    def __init__(
        self,
        live: LiveModel,
        triples: Triples,
        ranges: Sequence[TimestepRange],
        shares: Tensor,
        device: str,
        batch_size: int,
        distils: bool,
    ) -> None:
        self.live, self.triples, self.ranges, self.shares = live, triples, ranges, shares
        self.device, self.batch_size, self.distils = device, batch_size, distils
        self.num_forward_passes_per_image = int((shares > 0).sum())
        self.answers: list[Tensor] = []
        if distils:
            self.answers = self._experts_answers()

    def num_images(self, fraction: float = 1.0) -> int:
        """Return how many images are looked at, each at a timestep of every range."""
        return max(1, round(fraction * len(self.triples.x0)))

    def value(self, weights: Sequence[float], fraction: float = 1.0) -> float:
        """Return the mean squared error, ranges by their share of timesteps."""
        self.live.set_weights(weights)
        total = torch.zeros(len(self.ranges), dtype=torch.float64)
        with torch.inference_mode():
            for index, x_t, t, target, condition in self._batches(fraction):
                errors = (
                    (bind_condition(self.live.model, condition)(x_t, t) - target)
                    .square()
                    .flatten(1)
                    .mean(1)
                )
                total[index] += float(errors.double().sum())
        return float((self.shares * total).sum()) / self.num_images(fraction)

    def gradient(self, weights: Sequence[float]) -> tuple[float, list[float]]:
        """Return the same on all images, and its derivatives: one ordinary backward pass and a scalar product per expert."""
        self.live.check_linear()
        self.live.set_weights(weights)
        model, count = self.live.model, self.num_images()
        model.requires_grad_(True).zero_grad(set_to_none=True)
        total = 0.0
        for index, x_t, t, target, condition in self._batches(1.0):
            errors = (bind_condition(model, condition)(x_t, t) - target).square().flatten(1).mean(1)
            loss = float(self.shares[index]) * errors.sum() / count
            loss.backward()
            total += float(loss.detach())
        gradient = self.live.live.gradient(
            {name: tensor.grad for name, tensor in self.live.tensors.items()}
        )
        model.requires_grad_(False).zero_grad(set_to_none=True)
        return total, gradient

    def _batches(self, fraction: float) -> Iterator[Batch]:
        schedule, kind = self.live.model.schedule, self.live.model.prediction_type
        triples = self.triples.of(list(range(self.num_images(fraction))))
        seen = [0] * len(self.ranges)
        for index, x_t, t, target, condition in noised(
            triples, schedule, kind, self.device, self.batch_size
        ):
            if self.shares[index] == 0:
                continue
            if self.answers:
                target = self.answers[index][seen[index] : seen[index] + len(t)].to(self.device)
            seen[index] += len(t)
            yield index, x_t, t, target, condition

    @torch.inference_mode()
    def _experts_answers(self) -> list[Tensor]:
        """What each expert answers in its range, [images, C, H, W] a range: METHOD 3's targets, free of the noise's variance."""
        found = []
        for index in range(len(self.ranges)):
            self.live.set_expert(index)
            found.append(
                torch.cat(
                    [
                        bind_condition(self.live.model, c)(x_t, t).cpu()
                        for i, x_t, t, _, c in self._batches(1.0)
                        if i == index
                    ]
                )
            )
        return found
