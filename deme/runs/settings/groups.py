"""What commands share: option groups with fixed keys, and the keys of several commands."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    BatchSize,
    Count,
    FileName,
    Guidance,
    Line,
    Name,
    Number,
    Option,
    OptionalOption,
    Options,
    Pixels,
    Positive,
    Processes,
    Ranges,
    Replicates,
    Seed,
    Switch,
    Whole,
    refuse,
    without_null,
)
from deme.runs.settings.marks import NO_RESULT, ChangesNoResult, LeftOutAt
from deme.runs.settings.progress import ProgressSettings
from deme.system import EMA_WEIGHTS, FILE_NAME_RULE, is_file_name


@dataclass(frozen=True, config=STRICT)
class AdapterMergeSettings:
    """How LoRA experts are merged."""

    form: Literal["svd", "cat", "fuse"]
    rank: Count | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeSettings:
    """Where and how precisely to compute."""

    accelerator: Literal["cpu", "gpu"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    threads: Processes | None
    compile: Switch
    channels_last: Switch
    gradient_checkpointing: Switch
    strategy: Literal["ddp", "fsdp"] = "ddp"


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

    num_ranges: Ranges
    draws: Count
    seed: Seed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PassportSettings:
    """How a pretrained model is probed, and what follows if its config contradicts its weights."""

    num_images: Annotated[int, Field(ge=16, le=1_000_000, strict=True)]
    contradicted: Literal["refuse", "train"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SnapshotSettings:
    """Weights that are kept while training."""

    every: Count | None


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
    size: Pixels | None
    reference: Literal["held_out", "train", "all"]
    statistics: Annotated[Mapping[str, StatisticsFileSettings], BeforeValidator(without_null)]
    kid: Switch
    nearest_k: Count | None
    replicates: Replicates
    loss: LossMetricSettings | None
    # keys that the option files refer to: where weights are
    path: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    pretrained: str | None = None
    inception: Mapping[str, object] | None = None
    clip: Mapping[str, object] | None = None
    open_clip: Mapping[str, object] | None = None

    @property
    def measures_images(self) -> bool:
        """Whether any metric needs images."""
        return bool(self.features or self.scores)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossPlaneSettings:
    """Scores on the planes of two experts' weights through the best vector (Figure 6a)."""

    points: Whole
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


def _tracker(option: object) -> object:
    """Return a `logger` option; None for none, and for the format of an earlier version."""
    older = isinstance(option, Mapping) and option.keys() == {"mode", "project"}
    return None if older else option or None


Label = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # whatever it counts
Logger = Annotated[Option | None, BeforeValidator(_tracker), NO_RESULT]
Passport = Annotated[PassportSettings, NO_RESULT]
Data = Annotated[
    OptionalOption,
    ChangesNoResult("root", "download", "in_memory"),
    LeftOutAt(background="white"),
    LeftOutAt(option="load_cifar10", size=None),
    LeftOutAt(option="load_captioned_images", masks=None),
]
UNIFORM = {"_target_": "deme.diffusion.density.Uniform"}  # timesteps, as before there were others
CONSTANT = {"_target_": "deme.diffusion.weighting.constant.Constant"}
Model = Annotated[Option, LeftOutAt(ema=False, size=None)]
DType = Literal["float32", "float16", "bfloat16"]
# of an input that is a run; what they hold counts, as of all inputs
Compute = Annotated[ComputeSettings, ChangesNoResult("strategy")]
RunWeights = Annotated[Literal["ema", "raw"], NO_RESULT]

CELL_LETTERS = {  # before a value in a run's name
    "base": "",
    "pretrain_seed": "p",
    "expert": "e",
    "copy": "c",
    "seed": "s",
    "sample_seed": "n",
}
BACKWARD = 2  # a backward pass takes the arithmetic of two forward passes
STEPS_TAKEN_TWICE = {"PNDM": 1}  # by samplers that ask the network more often than they step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CommandSettings:
    """The keys of every command."""

    stage: FileName
    paths: Annotated[PathsSettings, NO_RESULT]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunSettings(CommandSettings):
    """The keys of every command whose work is a run."""

    suite: Annotated[FileName, NO_RESULT]
    cell: Annotated[Mapping[Line, Line | Label | None], NO_RESULT]
    seed: Seed | None
    inputs: Annotated[Mapping[str, Any], NO_RESULT]  # their content counts, not their paths
    progress: Annotated[ProgressSettings, NO_RESULT]
    # the overrides it was made with, which determine its name, and the keys that a sweep varied
    overrides: Annotated[list[str], NO_RESULT] = Field(default_factory=list)
    swept: Annotated[list[str], NO_RESULT] = Field(default_factory=list)
    logger: Logger = None

    @model_validator(mode="after")
    def _cell_in_the_path(self) -> "RunSettings":
        """Refuse labels that would lead out of the folder of runs: the run's name has them."""
        for key in ("method", *CELL_LETTERS):
            if (value := self.cell.get(key)) is not None:
                refuse(
                    not is_file_name(str(value)),
                    f"cell.{key} must be {FILE_NAME_RULE}; got {value!r}",
                )
        return self

    def without_effect(self) -> list[str]:
        """Return the typed overrides that have no effect because of other settings.

        These are not errors: a suite gives its common settings also to rows that do not need them.
        """
        return []

    def given(self, *keys: str) -> list[str]:
        """Return the typed overrides of these keys."""
        return [word for word in self.overrides if word.lstrip("+").partition("=")[0] in keys]

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost in forward passes of an image, of a search of at most `num_experts`."""
        return 0

    def weights_meant(self, name: str, num_runs: int) -> str:  # noqa: ARG002
        """Return which weights of the runs of the input `name` are meant: ema, raw or snapshots."""
        return EMA_WEIGHTS


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FromModelSettings(RunSettings):
    """The keys of every run that starts from a model."""

    model: Model


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FromRunsSettings(RunSettings):
    """The keys of every run whose inputs may be other runs with weights."""

    run_weights: RunWeights = "ema"

    @model_validator(mode="after")
    def _runs_given(self) -> "FromRunsSettings":
        """Refuse raw weights of no run: those of `model` are named by their folder."""
        refuse(
            self.run_weights != EMA_WEIGHTS and not any(self.inputs.values()),
            f"run_weights={self.run_weights} applies to runs of inputs.<name>, and none is given"
            "\ntype: model=<run>/weights/raw for the raw weights of a run as the model",
        )
        return self

    def weights_meant(self, name: str, num_runs: int) -> str:  # noqa: ARG002
        """Return which weights of the runs of the input `name` are meant: ema, raw or snapshots."""
        return self.run_weights


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatchSettings(CommandSettings):
    """The keys of every command that evaluates the network on batches of images."""

    batch_size: BatchSize
    compute: Compute


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SamplingSettings(BatchSettings):
    """The keys of every command that generates images."""

    sampler: Option
    prompts: OptionalOption
    guidance_scale: Guidance | None

    @property
    def num_forward_passes_per_image(self) -> int:
        """The forward passes that one generated image takes: guidance asks the network twice."""
        name = self.sampler["_target_"].rpartition(".")[2]
        num_calls = self.sampler.get("num_inference_steps", 0) + STEPS_TAKEN_TWICE.get(name, 0)
        guided = self.prompts and self.guidance_scale not in (None, 1)
        return int(num_calls) * (2 if guided else 1)
