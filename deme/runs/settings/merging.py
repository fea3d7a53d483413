"""The settings of deme merge, search, improve and export."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    NO_RESULT,
    STRICT,
    Count,
    Guidance,
    Name,
    NonNegative,
    Option,
    OptionalOption,
    Positive,
    Switch,
)
from deme.runs.settings.groups import (
    ComputeSettings,
    LossPlaneSettings,
    MetricsSettings,
    PathsSettings,
    ProjectionSettings,
)
from deme.runs.settings.keys import (
    Cell,
    Data,
    DType,
    Inputs,
    Logger,
    Passport,
    Paths,
    Progress,
    Suite,
)
from deme.system import BadConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MergeSettings:
    """deme merge."""

    stage: Name
    suite: Suite
    cell: Cell
    seed: NonNegative | None
    weights_by_name: Mapping[str, Any] | None
    compute_dtype: Literal["float32", "float64"]
    dtype: DType | None
    report: Annotated[Switch, NO_RESULT]
    plan: Annotated[Switch, NO_RESULT]
    inputs: Inputs
    model: Option
    merge: Option
    progress: Progress
    paths: Paths

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> "MergeSettings":
        weights = self.merge.get("weights")
        if self.inputs.get("search") and isinstance(weights, list):
            raise BadConfig(
                f"inputs.search has merge weights, and merge.weights={weights} is given, too\n"
                "type: one of them"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchSettings:
    """deme search."""

    stage: Name
    suite: Suite
    cell: Cell
    seed: NonNegative | None
    objective: str | None
    granularity: Literal["model", "block", "tensor"]
    rungs: Annotated[list[Positive], Field(min_length=1)]
    keep: Annotated[float, Field(gt=0, le=1, strict=True)]
    max_images: Count | None
    max_seconds: Positive | None
    loss_planes: Annotated[LossPlaneSettings, NO_RESULT]
    num_images: Annotated[int, Field(ge=2, strict=True)]
    batch_size: Count
    sample_seed: NonNegative
    guidance_scale: Guidance | None
    inputs: Inputs
    data: Data
    model: Option
    merge: Option
    search: Option
    prompts: OptionalOption
    sampler: Option
    metrics: MetricsSettings
    compute: ComputeSettings
    progress: Progress
    paths: Paths

    @property
    def resolved_objective(self) -> str:
        """The objective; null stands for frechet if `metrics` has a feature extractor, else loss."""
        return self.objective or ("frechet" if self.metrics.features else "loss")

    @property
    def generates_images(self) -> bool:
        """Whether candidates are scored by generated images, not by losses on training images."""
        return self.resolved_objective in ("frechet", "kid")

    @model_validator(mode="after")
    def _rules(self) -> "SearchSettings":
        if sorted(set(self.rungs)) != self.rungs or self.rungs[-1] != 1:
            raise BadConfig(
                f"rungs must be ascending fractions of the images that end in 1, got {self.rungs}"
            )
        if self.loss_planes.points and self.granularity != "model":
            raise BadConfig(
                "loss planes need one weight per expert\n"
                "type: granularity=model, or loss_planes.points=0"
            )
        if len(self.metrics.features) > 1:
            raise BadConfig(
                "deme search scores images with one feature extractor, and metrics.features names "
                f"{', '.join(self.metrics.features)}\ntype: metrics=<option with one>"
            )
        if self.generates_images and not self.metrics.features:
            raise BadConfig(
                f"objective={self.objective} needs a feature extractor\n"
                "type: metrics=digits, metrics=fid_pytorch, ..., or objective=loss"
            )
        if not self.generates_images and (self.data is None or self.metrics.loss is None):
            raise BadConfig(
                f"objective={self.resolved_objective} needs training images and metrics.loss\n"
                "type: data=<option> metrics=loss"
            )
        return self


IMPROVE_SEARCH_SEED = 7_000_000  # sample_seed of the search; evaluations use smaller seeds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImproveSearchSettings:
    """The search for merge weights of deme improve."""

    num_images: Annotated[int, Field(ge=2, strict=True)]
    step: Annotated[float, Field(gt=0, le=1, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImproveSettings:
    """deme improve."""

    stage: Name
    suite: Suite
    cell: Cell
    seed: NonNegative
    out: Annotated[Name, NO_RESULT]
    num_ranges: Count
    steps_per_expert: Count | None
    hours: Positive | None
    batch_size: Count
    lr: Positive
    guidance_scale: Guidance | None
    num_images: Count
    sample_seeds: list[NonNegative]
    search: ImproveSearchSettings
    passport: Passport
    inputs: Inputs
    data: Option
    model: Option
    metrics: MetricsSettings
    projection: ProjectionSettings
    prompts: OptionalOption
    sampler: Option
    compute: ComputeSettings
    progress: Progress
    logger: Logger
    paths: Paths

    @model_validator(mode="after")
    def _rules(self) -> "ImproveSettings":
        seeds = self.sample_seeds
        if not seeds or len(set(seeds)) < len(seeds) or max(seeds) >= IMPROVE_SEARCH_SEED:
            raise BadConfig(
                f"sample_seeds must be different whole numbers below {IMPROVE_SEARCH_SEED}, "
                f"got {seeds}"
            )
        if self.metrics.loss is None:
            raise BadConfig(
                "deme improve measures the held-out loss\ntype: leave out metrics.loss=null"
            )
        if len(self.metrics.features) > 1:
            raise BadConfig(
                "deme improve judges by one distance, and metrics.features names "
                f"{', '.join(self.metrics.features)}\ntype: metrics=fid_pytorch"
            )
        if self.projection.placement == "blocks":
            raise BadConfig(
                "deme improve writes a stock checkpoint, which projection=blocks cannot be\n"
                "type: projection=foldable"
            )
        if self.hours is not None and self.steps_per_expert is not None:
            raise BadConfig(
                "hours determines steps_per_expert\ntype: one of hours=<n>, steps_per_expert=<n>"
            )
        if not self.model.get("path"):
            raise BadConfig(
                "deme improve starts from a model on disk\ntype: model=<folder or hub:owner/name>"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportSettings:
    """deme export."""

    stage: Name
    run: Name
    out: Name
    dtype: DType
    keep_projections: Switch
    license: str | None
    overwrite: Switch
    push: str | None
    private: Switch
    dry_run: Switch
    paths: PathsSettings
