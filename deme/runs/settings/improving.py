"""The settings of deme improve."""

from math import floor, log10
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Count,
    Hours,
    LearningRate,
    Name,
    NotNegative,
    Option,
    OptionalOption,
    Ranges,
    Seed,
    TwoOrMore,
    different,
    refuse,
)
from deme.runs.settings.groups import (
    CONSTANT,
    UNIFORM,
    FromModelSettings,
    MetricsSettings,
    Passport,
    ProjectionSettings,
    SamplingSettings,
)
from deme.runs.settings.marks import NO_RESULT, LeftOutAt
from deme.system import EMA_WEIGHTS, SNAPSHOTS

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
    weighting: Annotated[Option, LeftOutAt(CONSTANT)] = Field(default_factory=lambda: {**CONSTANT})
    timestep_density: Annotated[Option, LeftOutAt(UNIFORM)] = Field(
        default_factory=lambda: {**UNIFORM}
    )
    adapter: Annotated[OptionalOption, LeftOutAt(None, {}), LeftOutAt(base_dtype=None)] = None

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
            self.adapter and any(self.inputs.values()),
            "inputs.average and inputs.snapshots_of average whole models, which is impossible with "
            "adapter=lora\ntype: the command without them, or adapter=none",
        )
        refuse(
            self.adapter and not {"finetune", "merge", "distill"} & {*self.ideas},
            f"ideas=[{','.join(self.ideas)}] only average whole models, which is impossible with "
            "adapter=lora\ntype: ideas=[finetune,merge,distill]",
        )
        refuse(
            self.adapter and self.projection.placement is not None,
            "adapter=lora cannot be combined with channel projections\ntype: projection=none",
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
