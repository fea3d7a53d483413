"""The settings of every command: one dataclass for each file conf/<command>.yaml."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Count,
    Guidance,
    Name,
    NonNegative,
    Option,
    OptionalOption,
    Positive,
    build,
)
from deme.runs.settings.groups import (
    ComputeSettings,
    LoggerSettings,
    LossWeightSettings,
    MetricsSettings,
    PassportSettings,
    PathsSettings,
    ProjectionSettings,
)
from deme.runs.settings.keys import Cell, Data, Inputs, Logger, Passport, Paths, Progress, Suite
from deme.runs.settings.merging import (
    ExportSettings,
    ImproveSettings,
    MergeSettings,
    SearchSettings,
)
from deme.system import BadConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
    """deme train."""

    stage: Name
    suite: Suite
    cell: Cell
    seed: NonNegative
    expert: NonNegative | None
    num_steps: Count
    batch_size: Count
    accumulate: Count
    gradient_clip: Positive | None
    loss_weight: LossWeightSettings
    passport: Passport
    inputs: Inputs
    data: Data
    model: Option
    weighting: Option
    timesteps: Option
    ranges: Option
    balancing: OptionalOption
    projection: ProjectionSettings
    ema: OptionalOption
    optimizer: Option
    learning_rate: Option
    method: Option
    compute: ComputeSettings
    progress: Progress
    logger: Logger
    paths: Paths

    @property
    def has_teacher(self) -> bool:
        """Whether the loss compares to a frozen copy of the pretrained model (paper eq. 5)."""
        return bool(self.method.get("consistency_weight"))

    @property
    def num_forward_passes(self) -> int:
        """The cost of the run in forward passes of one image; a backward pass counts as two.

        Measuring the affinities that ranges=gradient clusters is included.
        """
        affinity = 3 * self.ranges.get("num_bins", 0) * self.ranges.get("num_images", 0)
        per_image = 4 if self.has_teacher else 3
        return affinity + self.num_steps * self.accumulate * self.batch_size * per_image

    @model_validator(mode="after")
    def _precision(self) -> "TrainSettings":
        """Refuse precisions that training cannot do with the other options."""
        if self.compute.precision == "16-mixed" and self.compute.accelerator == "cpu":
            raise BadConfig(
                "compute.precision=16-mixed trains on a GPU only\n"
                "type: compute.precision=bf16-mixed"
            )
        fused = self.optimizer.get("fused") and self.gradient_clip
        if self.compute.precision == "16-mixed" and fused:
            raise BadConfig(
                "a fused optimizer undoes float16's loss scale by itself, after gradients were "
                "clipped\ntype: optimizer.fused=false, gradient_clip=null, "
                "or compute.precision=bf16-mixed"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings:
    """deme evaluate."""

    stage: Name
    suite: Suite
    cell: Cell
    seed: NonNegative | None
    source: Literal["weights", "experts", "images", "real"]
    num_images: Count
    batch_size: Count
    shard_size: Count
    sample_seed: NonNegative
    guidance_scale: Guidance | None
    save_images: Literal["png", "zip"] | None
    inputs: Inputs
    data: Data
    model: Option
    prompts: OptionalOption
    sampler: Option
    metrics: MetricsSettings
    compute: ComputeSettings
    progress: Progress
    logger: Logger
    paths: Paths

    @property
    def needs_images(self) -> bool:
        """Whether images are generated or read: to be measured, or to be saved."""
        return self.metrics.measures_images or self.save_images is not None

    @model_validator(mode="after")
    def _source(self) -> "EvaluateSettings":
        """Refuse a source without its inputs, without metrics, or with too few images."""
        metrics = self.metrics
        if metrics.loss is None and not metrics.measures_images:
            raise BadConfig(
                "nothing is measured: metrics has no loss, no features and no scores\n"
                "type: metrics=<option>"
            )
        for source, given in (("experts", "[<run>,...]"), ("images", "<folder>")):
            if (self.source == source) != bool(self.inputs[source]):
                raise BadConfig(f"source={source} and inputs.{source}={given} need each other")
        if self.inputs["weights"] and self.source != "weights":
            raise BadConfig(
                f"source={self.source} does not use inputs.weights\n"
                "type: source=weights, or leave it out"
            )
        if self.source in ("real", "images") and not metrics.features:
            raise BadConfig(
                f"source={self.source} compares images and needs a feature extractor; "
                "metrics.features is empty\ntype: metrics=<option>"
            )
        least = 2 if metrics.nearest_k is None else metrics.nearest_k + 2
        if metrics.features and self.num_images < least:
            raise BadConfig(
                f"these metrics need at least {least} images, got num_images={self.num_images}"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SampleSettings:
    """deme sample."""

    stage: Name
    run: Any  # a path, a list of paths, or {label: path or list}
    num_images: Count | None
    batch_size: Count
    sample_seed: NonNegative
    guidance_scale: Guidance | None
    out: Name
    prompts: OptionalOption
    sampler: Option
    compute: ComputeSettings
    logger: LoggerSettings
    paths: PathsSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatsSettings:
    """deme stats."""

    stage: Name
    out: Name | None
    data: Option
    metrics: MetricsSettings
    compute: ComputeSettings
    paths: PathsSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VerifySettings:
    """deme verify."""

    stage: Name
    run: Name
    num_images: Count
    pick_seed: NonNegative | None
    batch_size: Count
    compute: ComputeSettings | None = None
    paths: PathsSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnalyzeSettings:
    """deme analyze."""

    stage: Name
    seed: NonNegative
    run: Name | None
    out: Name
    data: OptionalOption
    model: Option
    metrics: MetricsSettings
    figure: Option
    paths: PathsSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DoctorSettings:
    """deme doctor."""

    stage: Name
    seed: NonNegative
    passport: PassportSettings
    num_images: Count
    out: Name
    model: OptionalOption = None
    data: OptionalOption = None
    compute: ComputeSettings
    paths: PathsSettings


SETTINGS = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "merge": MergeSettings,
    "search": SearchSettings,
    "improve": ImproveSettings,
    "sample": SampleSettings,
    "stats": StatsSettings,
    "export": ExportSettings,
    "verify": VerifySettings,
    "analyze": AnalyzeSettings,
    "doctor": DoctorSettings,
}

# Settings of the commands whose work is a run: they have stage, suite, cell, inputs, model and paths.
RunSettings = TrainSettings | EvaluateSettings | MergeSettings | SearchSettings | ImproveSettings


def run_settings(config: Mapping[str, Any]) -> RunSettings:
    """Return the checked settings of a run's resolved config. Raises BadConfig."""
    kind: Any = SETTINGS[config["stage"]]
    settings: RunSettings = build(kind, config)
    return settings
