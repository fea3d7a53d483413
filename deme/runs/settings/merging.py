"""The settings of deme merge, average and search."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.objects import instantiate
from deme.runs.settings.base import (
    STRICT,
    Count,
    Fraction,
    Option,
    Positive,
    Seed,
    Switch,
    Time,
    TwoOrMore,
    Whole,
    refuse,
)
from deme.runs.settings.groups import (
    BACKWARD,
    AdapterMergeSettings,
    Data,
    DType,
    FromModelSettings,
    FromRunsSettings,
    LossPlaneSettings,
    MetricsSettings,
    SamplingSettings,
)
from deme.runs.settings.marks import NO_RESULT, LeftOutAt
from deme.system import SNAPSHOTS

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
