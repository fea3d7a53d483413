"""The settings of every command: one dataclass for each file conf/<command>.yaml."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Config,
    Count,
    Name,
    NonNegative,
    Option,
    OptionalOption,
    Positive,
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
from deme.system import BadConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings(RunSettings, BatchSettings):
    """deme train."""

    seed: NonNegative
    expert: NonNegative | None
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
        """Refuse precisions that training cannot do with the other options."""
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

    source: Literal["weights", "experts", "images", "real"]
    num_images: Count
    shard_size: Count
    sample_seed: NonNegative
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
            metrics.loss is None and not metrics.measures_images,
            "nothing is measured: metrics has no loss, no features and no scores\n"
            "type: metrics=<option>",
        )
        for name, example in (("experts", "[<run>,...]"), ("images", "<folder>")):
            refuse(
                (source == name) != bool(self.inputs[name]),
                f"source={name} and inputs.{name}={example} need each other",
            )
        refuse(
            self.inputs["weights"] and source != "weights",
            f"source={source} does not use inputs.weights\ntype: source=weights, or leave it out",
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

    run: Any  # a path, a list of paths, or {label: path or list}
    num_images: Count | None
    sample_seed: NonNegative
    out: Name
    logger: LoggerSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatsSettings(CommandSettings):
    """deme stats."""

    out: Name | None
    data: Option
    metrics: MetricsSettings
    compute: ComputeSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VerifySettings(CommandSettings):
    """deme verify."""

    run: Name
    num_images: Count
    pick_seed: NonNegative | None
    batch_size: Count
    compute: ComputeSettings | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnalyzeSettings(CommandSettings):
    """deme analyze."""

    seed: NonNegative
    run: Name | None
    out: Name
    data: OptionalOption
    model: Option
    metrics: MetricsSettings
    figure: Option


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DoctorSettings(CommandSettings):
    """deme doctor."""

    seed: NonNegative
    passport: PassportSettings
    num_images: Count
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
    kind = RUNS.get(str(config.get("stage")))
    if kind is None:
        raise BadConfig(f"stage must be one of {', '.join(RUNS)}; got {config.get('stage')!r:.200}")
    return build(kind, config)
