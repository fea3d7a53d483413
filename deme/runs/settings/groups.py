"""The option groups with fixed keys: compute, progress, logger, paths, metrics and others."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Count,
    Guidance,
    Name,
    NonNegative,
    Number,
    Options,
    Positive,
    Switch,
    TwoOrMore,
    refuse,
    without_null,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeSettings:
    """Where and how precisely to compute."""

    accelerator: Literal["cpu", "gpu"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    threads: Count | None
    compile: Switch
    channels_last: Switch
    gradient_checkpointing: Switch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PreviewSettings:
    """The grid of samples at the end of training."""

    num_images: Count
    num_inference_steps: Count
    guidance_scale: Guidance
    seed: NonNegative


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProgressSettings:
    """How often to save and log, and how many processes help."""

    checkpoint_every: Count
    log_every: Count
    num_workers: NonNegative
    processes: Count
    preview: PreviewSettings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoggerSettings:
    """Weights & Biases."""

    mode: Literal["disabled", "offline", "online"]
    project: Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PathsSettings:
    """Where runs, the cache, data sets and models are."""

    runs: Name
    cache: str | None
    data: Name
    models: Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossMetricSettings:
    """The held-out denoising loss on fixed (x0, t, eps)."""

    num_ranges: Count
    draws: Count
    seed: NonNegative


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PassportSettings:
    """How a pretrained model is probed, and what follows if its config contradicts its weights."""

    num_images: Annotated[int, Field(ge=16, strict=True)]
    contradicted: Literal["refuse", "train"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossWeightSettings:
    """What happens to the weight of every timestep after `weighting`."""

    max: Positive | None
    normalize: Switch


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProjectionSettings:
    """Where channel-wise projections are added."""

    placement: Literal["blocks", "foldable"] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatisticsFileSettings:
    """A .npz file of statistics to compare to, in place of images."""

    path: Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricsSettings:
    """What is measured, and against what."""

    features: Options  # feature extractors by name
    scores: Options  # scores of images and their prompts by name
    size: Count | None
    reference: Literal["held_out", "train", "all"]
    statistics: Annotated[Mapping[str, StatisticsFileSettings], BeforeValidator(without_null)]
    kid: Switch
    nearest_k: Count | None
    replicates: TwoOrMore
    loss: LossMetricSettings | None
    # keys that the option files refer to: where weights are
    path: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    pretrained: str | None = None
    inception: Mapping[str, Any] | None = None
    clip: Mapping[str, Any] | None = None
    open_clip: Mapping[str, Any] | None = None

    @property
    def measures_images(self) -> bool:
        """Whether any metric needs images."""
        return bool(self.features or self.scores)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossPlaneSettings:
    """Scores on the planes of two experts' weights through the best vector (Figure 6a)."""

    points: NonNegative
    low: Number
    high: Number

    @model_validator(mode="after")
    def _range(self) -> "LossPlaneSettings":
        refuse(
            self.points == 1 or self.low >= self.high,
            "loss_planes.points must be 0 or at least 2, and loss_planes.low below "
            f"loss_planes.high; got points={self.points}, low={self.low:g}, high={self.high:g}",
        )
        return self
