"""The settings of deme merge, search, improve and export."""

from collections.abc import Mapping
from math import floor, log10
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.objects import instantiate
from deme.runs.settings.base import (
    STRICT,
    Count,
    Fraction,
    Hours,
    LearningRate,
    Name,
    NotNegative,
    Option,
    Positive,
    Ranges,
    Seed,
    Switch,
    Time,
    TwoOrMore,
    Whole,
    different,
    refuse,
)
from deme.runs.settings.groups import (
    BACKWARD,
    AdapterMergeSettings,
    CommandSettings,
    Data,
    DType,
    FromModelSettings,
    FromRunsSettings,
    LossPlaneSettings,
    MetricsSettings,
    Passport,
    ProjectionSettings,
    SamplingSettings,
)
from deme.runs.settings.marks import NO_RESULT, LeftOutAt
from deme.system import EMA_WEIGHTS, SNAPSHOTS

MergeOption = Annotated[Option, LeftOutAt(sum=None)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MergeSettings(FromModelSettings, FromRunsSettings):
    """deme merge."""

    stage: Literal["merge"]
    weights_by_name: Mapping[str, Any] | None
    compute_dtype: Literal["float32", "float64"]
    dtype: DType | Literal["auto"] | None
    lora: Annotated[AdapterMergeSettings, LeftOutAt({"form": "svd", "rank": None})] = (
        AdapterMergeSettings("svd", None)
    )
    report: Annotated[Switch, NO_RESULT]
    plan: Annotated[Switch, NO_RESULT]
    merge: MergeOption

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> "MergeSettings":
        weights = self.merge.get("weights")
        refuse(
            self.inputs.get("search") and isinstance(weights, list),
            f"inputs.search has merge weights, and merge.weights={weights} is given, too\n"
            "type: one of them",
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AverageSettings(FromRunsSettings):
    """deme average."""

    stage: Literal["average"]
    expert: Annotated[Whole | None, NO_RESULT]
    compute_dtype: Literal["float32", "float64"]
    dtype: DType | None
    average: Option

    def weights_meant(self, name: str, num_runs: int) -> str:
        """Return snapshots of a single run: several are averaged as they ended."""
        return SNAPSHOTS if name == "run" and num_runs == 1 else self.run_weights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchSettings(FromModelSettings, FromRunsSettings, SamplingSettings):
    """deme search."""

    stage: Literal["search"]
    objective: str | None
    granularity: Literal["model", "block", "tensor"]
    rungs: Annotated[list[Positive], Field(min_length=1)]
    keep: Fraction
    max_images: Count | None
    max_seconds: Time | None
    loss_planes: Annotated[LossPlaneSettings, NO_RESULT]
    num_images: TwoOrMore
    sample_seed: Seed
    data: Data
    merge: MergeOption
    search: Option
    metrics: MetricsSettings

    def weights_meant(self, name: str, num_runs: int) -> str:  # noqa: ARG002
        """Return snapshots of the run whose snapshots are the candidates."""
        return SNAPSHOTS if name == "snapshots_of" else self.run_weights

    @property
    def merge_without_sum(self) -> dict[str, object]:
        """The merge without a sum of the weights, which a search finds with them."""
        return {key: value for key, value in self.merge.items() if key != "sum"}

    @property
    def resolved_objective(self) -> str:
        """The objective; null is frechet if `metrics` has a feature extractor, else loss."""
        return self.objective or ("frechet" if self.metrics.features else "loss")

    @property
    def generates_images(self) -> bool:
        """Whether candidates are scored by generated images, not by losses on training images."""
        return self.resolved_objective in ("frechet", "kid")

    def num_forward_passes(self, num_experts: int = 0) -> int:
        """Return the largest cost of a search for the weights of `num_experts`."""
        search, loss = instantiate(self.search), self.metrics.loss  # a deme.merging.search.Search
        per_image = loss.num_ranges if loss else 0
        if self.generates_images:
            per_image = self.num_forward_passes_per_image
        if getattr(search, "needs_gradients", False):
            per_image *= 1 + BACKWARD
        return int(self.num_images * per_image * (search.count(num_experts) or 0))

    @model_validator(mode="after")
    def _rules(self) -> "SearchSettings":
        features = self.metrics.features
        given = [key for key in ("experts", "snapshots_of") if self.inputs.get(key) is not None]
        refuse(
            len(given) != 1,
            f"one of inputs.experts and inputs.snapshots_of must be given, got {len(given)}\n"
            "type: inputs.experts=[<run>,...], or inputs.snapshots_of=<run>",
        )
        refuse(
            sorted(set(self.rungs)) != self.rungs or self.rungs[-1] != 1,
            f"rungs must be ascending fractions of the images that end in 1, got {self.rungs}",
        )
        refuse(
            self.merge.get("sum") is not None,
            f"merge.sum={self.merge.get('sum')}, and a search finds the sum of the weights, too\n"
            "type: merge.sum=null; for the sum alone: search=sum",
        )
        refuse(
            self.loss_planes.points and self.granularity != "model",
            "loss planes need one weight per expert\n"
            "type: granularity=model, or loss_planes.points=0",
        )
        refuse(
            len(features) > 1,
            "deme search scores images with one feature extractor, and metrics.features names "
            f"{', '.join(features)}\ntype: metrics=<option with one>",
        )
        refuse(
            self.generates_images and not features,
            f"objective={self.objective} needs a feature extractor\n"
            "type: metrics=own, metrics=digits, ..., or objective=loss",
        )
        refuse(
            not self.generates_images and (self.data is None or self.metrics.loss is None),
            f"objective={self.resolved_objective} needs training images and metrics.loss\n"
            "type: data=<option> metrics=loss",
        )
        return self


MAX_CANDIDATES = 10**9  # merges that a search of deme improve may score
IMPROVE_HOURS = 1.0  # unless hours or steps_per_expert say otherwise
IMPROVE_SEARCH_SEED = 7_000_000  # sample_seed of the search; evaluations use smaller seeds
IMPROVE_JUDGE_SEED = IMPROVE_SEARCH_SEED + 1  # of the choice between candidates
Idea = Literal["average", "finetune", "soup", "merge", "distill"]
Ideas = Annotated[list[Idea], AfterValidator(different)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImproveSearchSettings:
    """The search for merge weights of deme improve."""

    num_images: TwoOrMore
    step: Annotated[float, Field(ge=1e-3, le=1, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImproveSettings(FromModelSettings, SamplingSettings):
    """deme improve."""

    stage: Literal["improve"]
    seed: Seed
    out: Annotated[Name, NO_RESULT]
    ideas: Ideas
    num_ranges: Ranges
    consistency_weight: NotNegative
    steps_per_expert: Count | None
    hours: Hours | None
    lr: LearningRate
    num_images: Count
    sample_seeds: list[Seed]
    search: ImproveSearchSettings
    passport: Passport
    data: Option
    metrics: MetricsSettings
    projection: ProjectionSettings

    def weights_meant(self, name: str, num_runs: int) -> str:  # noqa: ARG002
        """Return snapshots of the run whose snapshots are averaged."""
        return SNAPSHOTS if name == "snapshots_of" else EMA_WEIGHTS

    @property
    def budget_hours(self) -> float | None:
        """The time for everything; None where steps_per_expert says how much is done."""
        if self.hours is None and self.steps_per_expert is None:
            return IMPROVE_HOURS
        return self.hours

    def without_effect(self) -> list[str]:
        """Return the typed settings of generated images if the choice is made by the loss."""
        return [] if self.metrics.features else self.given("num_images", "sample_seeds")

    @model_validator(mode="after")
    def _averages(self) -> "ImproveSettings":
        """Refuse averages that are not used, and two of them."""
        given = [name for name in ("average", "snapshots_of") if self.inputs.get(name)]
        refuse(
            len(given) > 1,
            "inputs.average and inputs.snapshots_of are two averages\ntype: one of them",
        )
        refuse(
            given and "average" not in self.ideas,
            f"inputs.{''.join(given)} is used only by the idea average, which ideas does not name\n"
            f"type: ideas=[{','.join(get_args(Idea))}]",
        )
        return self

    @model_validator(mode="after")
    def _rules(self) -> "ImproveSettings":
        seeds, features = self.sample_seeds, self.metrics.features
        refuse(
            not seeds or len(set(seeds)) < len(seeds) or max(seeds) >= IMPROVE_SEARCH_SEED,
            f"sample_seeds must be different whole numbers below {IMPROVE_SEARCH_SEED}, "
            f"got {seeds}",
        )
        candidates = log10(floor(1 / self.search.step) + 1) * self.num_ranges
        refuse(
            candidates > log10(MAX_CANDIDATES),
            f"a grid of search.step={self.search.step:g} for num_ranges={self.num_ranges} experts "
            f"has more than {MAX_CANDIDATES:,} merges\ntype: a larger search.step=<share>",
        )
        refuse(
            self.metrics.loss is None,
            "deme improve measures the held-out loss\ntype: leave out metrics.loss=null",
        )
        refuse(
            len(features) > 1,
            "deme improve decides by one distance, and metrics.features names "
            f"{', '.join(features)}\ntype: metrics=own",
        )
        refuse(
            self.projection.placement == "blocks",
            "deme improve writes a stock checkpoint, which is impossible with projection=blocks\n"
            "type: projection=foldable",
        )
        refuse(
            self.hours is not None and self.steps_per_expert is not None,
            "hours and steps_per_expert exclude each other\n"
            "type: one of hours=<n>, steps_per_expert=<n>",
        )
        refuse(
            not self.model.get("path"),
            "deme improve starts from a model on disk\ntype: model=<folder or hub:owner/name>",
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportSettings(CommandSettings):
    """deme export."""

    stage: Literal["export"]
    run: Name
    out: Name
    dtype: DType
    keep_projections: Switch
    license: str | None
    overwrite: Switch
    push: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None
    private: Switch
    dry_run: Switch
