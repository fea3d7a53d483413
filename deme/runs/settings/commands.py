"""The settings of every command: one dataclass for each file conf/<command>.yaml."""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    BatchSize,
    Config,
    Count,
    Line,
    Name,
    Option,
    OptionalOption,
    Pixels,
    Positive,
    Seed,
    Shown,
    Switch,
    build,
    different,
    key,
    refuse,
)
from deme.runs.settings.evaluating import EvaluateSettings
from deme.runs.settings.exporting import ExportSettings
from deme.runs.settings.groups import (
    BACKWARD,
    UNIFORM,
    BatchSettings,
    CommandSettings,
    ComputeSettings,
    Data,
    FromModelSettings,
    FromRunsSettings,
    Logger,
    LossWeightSettings,
    MetricsSettings,
    Model,
    Passport,
    PassportSettings,
    ProjectionSettings,
    RunSettings,
    SamplingSettings,
    SnapshotSettings,
)
from deme.runs.settings.improving import (
    ImproveSettings,
)
from deme.runs.settings.marks import LeftOutAt
from deme.runs.settings.merging import (
    AverageSettings,
    MergeSettings,
    SearchSettings,
)
from deme.runs.settings.progress import ProgressSettings
from deme.runs.settings.teachers import TaughtSettings
from deme.system import RAW_WEIGHTS, shown

Kind = Literal["raw", "ema"]
KINDS: tuple[Kind, Kind] = ("raw", "ema")
Export = Annotated[
    list[Kind],
    AfterValidator(different),
    LeftOutAt(["raw", "ema"], ["ema", "raw"]),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings(TaughtSettings, FromModelSettings, FromRunsSettings, BatchSettings):
    """deme train."""

    stage: Literal["train"]
    num_steps: Count
    accumulate: Count
    gradient_clip: Positive | None
    loss_weight: LossWeightSettings
    passport: Passport
    data: Data
    weighting: Option
    timesteps: Option
    timestep_density: Annotated[Option, LeftOutAt(UNIFORM)] = Field(
        default_factory=lambda: {**UNIFORM}
    )
    ranges: Annotated[Option, LeftOutAt(path=None)]
    balancing: OptionalOption
    projection: ProjectionSettings
    adapter: Annotated[OptionalOption, LeftOutAt(None, {}), LeftOutAt(base_dtype=None)] = None
    export: Export = Field(default_factory=lambda: [*KINDS])
    snapshots: Annotated[SnapshotSettings, LeftOutAt({"every": None})] = SnapshotSettings(
        every=None
    )
    optimizer: Option
    learning_rate: Option

    @property
    def exported(self) -> tuple[str, ...]:
        """The kinds of weights that are written at the end: raw, ema, or both."""
        return tuple(kind for kind in self.export if kind == RAW_WEIGHTS or self.ema is not None)

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost, that of the affinities that ranges=gradient clusters included."""
        measured = self.ranges.get("path") is None
        affinity: int = self.ranges.get("num_bins", 0) * self.ranges.get("num_images", 0) * measured
        num_images = self.num_steps * self.accumulate * self.batch_size
        return (num_images + affinity) * (1 + BACKWARD) + num_images * self.has_teacher

    @property
    def num_snapshots(self) -> int:
        """How many snapshots are kept, that of the last step included."""
        every = self.snapshots.every
        return ceil(self.num_steps / every) if every is not None else 0

    @property
    def tracks_profiles(self) -> bool:
        """Whether averages of other lengths can be made afterwards, of profiles in snapshots."""
        return self.ema is not None and "length" in self.ema

    @model_validator(mode="after")
    def _averages(self) -> "TrainSettings":
        """Refuse to write an average that there is none of, and profiles that nothing stores."""
        refuse(
            self.adapter is not None and self.teacher_is_average,
            "method.teacher=ema cannot be combined with adapter=lora\ntype: method.teacher=base",
        )
        refuse(
            not self.exported,
            "export=[ema] writes the average alone, and ema=none has none\n"
            "type: export=[raw], or ema=warmup",
        )
        refuse(
            self.tracks_profiles and self.snapshots.every is None,
            "ema=post_hoc stores its two averages in snapshots, and there are none\n"
            "type: snapshots.every=<optimizer steps>, such as a twentieth of num_steps",
        )
        return self

    @model_validator(mode="after")
    def _precision(self) -> "TrainSettings":
        """Refuse training without images, and precisions that it cannot do with the others."""
        refuse(self.data is None, "training needs images, and data=none\ntype: data=<option>")
        ends = self.ranges.get("boundaries", self.ranges.get("levels", ()))
        number = self.ranges.get("num_ranges", len(ends) - 1)
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
class SampleSettings(SamplingSettings):
    """deme sample."""

    stage: Literal["sample"]
    run: Any  # a path, a list of paths, or {label: path or list}
    num_images: Shown | None
    size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None
    sample_seed: Seed
    out: Name
    logger: Logger


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishSettings(CommandSettings):
    """deme publish."""

    stage: Literal["publish"]
    files: Annotated[
        Switch, key("Whether to send the weights too, not only their names and digests.", True)
    ]
    logger: Annotated[Logger, key("The tracker: an option of conf/logger/.", "wandb")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReproduceSettings(CommandSettings):
    """deme reproduce: how its processes are started, and what changes no result of a run."""

    stage: Literal["reproduce"]
    launcher: Option
    logger: Logger
    progress: ProgressSettings


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


# a run or a folder, or a list of them
Places = Annotated[
    list[Name], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FigureInputs:
    """The models that a figure shows in addition to model=: experts, and others by label."""

    experts: Places | None
    models: Mapping[Line, Places] | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnalyzeSettings(CommandSettings):
    """deme analyze."""

    stage: Literal["analyze"]
    seed: Seed
    run: Name | None
    out: Name
    plan: Switch
    inputs: FigureInputs
    data: Data
    model: Model
    metrics: MetricsSettings
    figure: Option
    compute: ComputeSettings


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
    "average": AverageSettings,
    "improve": ImproveSettings,
}
SETTINGS: Mapping[str, type[CommandSettings]] = {
    **RUNS,
    "sample": SampleSettings,
    "publish": PublishSettings,
    "reproduce": ReproduceSettings,
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
