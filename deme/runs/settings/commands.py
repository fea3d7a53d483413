"""The settings of every command: one dataclass for each file conf/<command>.yaml."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    BatchSize,
    Config,
    Count,
    Name,
    Option,
    OptionalOption,
    Positive,
    Seed,
    Shown,
    Whole,
    build,
    refuse,
)
from deme.runs.settings.groups import (
    BACKWARD,
    BatchSettings,
    CommandSettings,
    ComputeSettings,
    Data,
    Logger,
    LoggerSettings,
    LossWeightSettings,
    MetricsSettings,
    Passport,
    PassportSettings,
    ProjectionSettings,
    RunSettings,
    SamplingSettings,
)
from deme.runs.settings.merging import (
    ExportSettings,
    ImproveSettings,
    MergeSettings,
    SearchSettings,
)
from deme.system import shown

MAX_SHARDS = 1_000_000  # of the images of an evaluation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings(RunSettings, BatchSettings):
    """deme train."""

    stage: Literal["train"]
    seed: Seed
    expert: Whole | None
    num_steps: Count
    accumulate: Count
    gradient_clip: Positive | None
    loss_weight: LossWeightSettings
    passport: Passport
    data: Data
    weighting: Option
    timesteps: Option
    ranges: Option
    balancing: OptionalOption
    projection: ProjectionSettings
    ema: OptionalOption
    optimizer: Option
    learning_rate: Option
    method: Option
    logger: Logger

    @property
    def has_teacher(self) -> bool:
        """Whether the loss compares to a frozen copy of the pretrained model (paper eq. 5)."""
        return bool(self.method.get("consistency_weight"))

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost, that of the affinities that ranges=gradient clusters included."""
        affinity: int = self.ranges.get("num_bins", 0) * self.ranges.get("num_images", 0)
        num_images = self.num_steps * self.accumulate * self.batch_size
        return (num_images + affinity) * (1 + BACKWARD) + num_images * self.has_teacher

    @model_validator(mode="after")
    def _precision(self) -> "TrainSettings":
        """Refuse training without images, and precisions that it cannot do with the others."""
        refuse(self.data is None, "training needs images, and data=none\ntype: data=<option>")
        number = self.ranges.get("num_ranges", len(self.ranges.get("boundaries", ())) - 1)
        refuse(
            number > 0 and self.expert is not None and self.expert >= number,
            f"expert={self.expert}: with {number} ranges it must lie in 0..{number - 1}",
        )
        scaled = self.compute.precision == "16-mixed"
        refuse(
            scaled and self.compute.accelerator == "cpu",
            "compute.precision=16-mixed trains on a GPU only\ntype: compute.precision=bf16-mixed",
        )
        refuse(
            scaled and self.optimizer.get("fused") and self.gradient_clip,
            "a fused optimizer undoes float16's loss scale by itself, after gradients were "
            "clipped\ntype: optimizer.fused=false, gradient_clip=null, "
            "or compute.precision=bf16-mixed",
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings(RunSettings, SamplingSettings):
    """deme evaluate."""

    stage: Literal["evaluate"]
    source: Literal["weights", "experts", "images", "real"]
    num_images: Count
    shard_size: Count
    sample_seed: Seed
    save_images: Literal["png", "zip"] | None
    data: Data
    metrics: MetricsSettings
    logger: Logger

    @property
    def needs_images(self) -> bool:
        """Whether images are generated or read: to be measured, or to be saved."""
        return self.metrics.measures_images or self.save_images is not None

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost of the images that are generated to be measured."""
        generated = self.source in ("weights", "experts") and self.metrics.measures_images
        return self.num_images * self.num_forward_passes_per_image if generated else 0

    @model_validator(mode="after")
    def _source(self) -> "EvaluateSettings":
        """Refuse a source without its inputs, without metrics, or with too few images."""
        source, metrics = self.source, self.metrics
        refuse(
            self.num_images > MAX_SHARDS * self.shard_size,
            f"num_images={self.num_images} in shards of shard_size={self.shard_size} are more than "
            f"{MAX_SHARDS:,} shards\ntype: a larger shard_size=<n>",
        )
        refuse(
            metrics.loss is None and not metrics.measures_images,
            "nothing is measured: metrics has no loss, no features and no scores\n"
            "type: metrics=<option>",
        )
        for name, example in (("experts", "[<run>,...]"), ("images", "<folder>")):
            refuse(
                (source == name) != bool(self.inputs.get(name)),
                f"source={name} and inputs.{name}={example} need each other",
            )
        refuse(
            self.inputs.get("weights") and source != "weights",
            f"source={source} does not use inputs.weights\ntype: source=weights, or leave it out",
        )
        refuse(
            source == "real" and self.data is None,
            "source=real draws images from the data set, and data=none\ntype: data=<option>",
        )
        refuse(
            source in ("real", "images") and not metrics.features,
            f"source={source} compares images and needs a feature extractor; "
            "metrics.features is empty\ntype: metrics=<option>",
        )
        least = (metrics.nearest_k or 0) + 2
        refuse(
            metrics.features and self.num_images < least,
            f"these metrics need at least {least} images, got num_images={self.num_images}",
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SampleSettings(SamplingSettings):
    """deme sample."""

    stage: Literal["sample"]
    run: Any  # a path, a list of paths, or {label: path or list}
    num_images: Shown | None
    sample_seed: Seed
    out: Name
    logger: LoggerSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatsSettings(CommandSettings):
    """deme stats."""

    stage: Literal["stats"]
    out: Name | None
    data: Option
    metrics: MetricsSettings
    compute: ComputeSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VerifySettings(CommandSettings):
    """deme verify."""

    stage: Literal["verify"]
    run: Name
    num_images: Count
    pick_seed: Seed | None
    batch_size: BatchSize
    compute: ComputeSettings | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnalyzeSettings(CommandSettings):
    """deme analyze."""

    stage: Literal["analyze"]
    seed: Seed
    run: Name | None
    out: Name
    data: OptionalOption
    model: Option
    metrics: MetricsSettings
    figure: Option


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DoctorSettings(CommandSettings):
    """deme doctor."""

    stage: Literal["doctor"]
    seed: Seed
    passport: PassportSettings
    num_images: Shown
    out: Name
    model: OptionalOption = None
    data: OptionalOption = None
    compute: ComputeSettings


RUNS: Mapping[str, type[RunSettings]] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "merge": MergeSettings,
    "search": SearchSettings,
    "improve": ImproveSettings,
}
SETTINGS: Mapping[str, type[CommandSettings]] = {
    **RUNS,
    "sample": SampleSettings,
    "stats": StatsSettings,
    "export": ExportSettings,
    "verify": VerifySettings,
    "analyze": AnalyzeSettings,
    "doctor": DoctorSettings,
}


def run_settings(config: Config) -> RunSettings:
    """Return the checked settings of a run's resolved config. Raises BadConfig."""
    stage = config.get("stage")
    refuse(stage not in RUNS, f"stage must be one of {', '.join(RUNS)}; got {shown(stage)}")
    return build(RUNS[str(stage)], config)
