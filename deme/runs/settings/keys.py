"""The keys that several commands share, and which of them change no result."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    NO_RESULT,
    STRICT,
    ChangesNoResult,
    Count,
    Guidance,
    Name,
    NonNegative,
    Option,
    OptionalOption,
)
from deme.runs.settings.groups import (
    ComputeSettings,
    LoggerSettings,
    PassportSettings,
    PathsSettings,
    ProgressSettings,
)

Logger = Annotated[LoggerSettings, NO_RESULT]
Passport = Annotated[PassportSettings, NO_RESULT]
Data = Annotated[OptionalOption, ChangesNoResult("root", "download", "in_memory")]
DType = Literal["float32", "float16", "bfloat16"]

BACKWARD = 2  # a backward pass takes the arithmetic of two forward passes
STEPS_TAKEN_TWICE = {"PNDM": 1}  # by samplers that ask the network more often than they step


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CommandSettings:
    """The keys of every command."""

    stage: Name
    paths: Annotated[PathsSettings, NO_RESULT]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunSettings(CommandSettings):
    """The keys of every command whose work is a run."""

    suite: Annotated[Name, NO_RESULT]
    cell: Annotated[Mapping[str, str | int | None], NO_RESULT]
    seed: NonNegative | None
    inputs: Annotated[Mapping[str, Any], NO_RESULT]  # their content counts, not where they lie
    model: Option
    progress: Annotated[ProgressSettings, NO_RESULT]

    def num_forward_passes(self, num_experts: int = 0) -> int:  # noqa: ARG002
        """Return the cost of the run, of a search of `num_experts` at most (docs/runs.md).

        It is counted in forward passes of one image; a backward pass counts as two.
        """
        return 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatchSettings(CommandSettings):
    """The keys of every command that evaluates the network on batches of images."""

    batch_size: Count
    compute: ComputeSettings


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
