"""The types of keys that several commands have, and which of them change no result."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from deme.runs.settings.base import (
    NO_RESULT,
    ChangesNoResult,
    Name,
    OptionalOption,
)
from deme.runs.settings.groups import (
    LoggerSettings,
    PassportSettings,
    PathsSettings,
    ProgressSettings,
)

Cell = Annotated[Mapping[str, str | int | None], NO_RESULT]
Inputs = Annotated[Mapping[str, Any], NO_RESULT]  # their content counts, not where they lie
Paths = Annotated[PathsSettings, NO_RESULT]
Logger = Annotated[LoggerSettings, NO_RESULT]
Progress = Annotated[ProgressSettings, NO_RESULT]
Passport = Annotated[PassportSettings, NO_RESULT]
Suite = Annotated[Name, NO_RESULT]
Data = Annotated[OptionalOption, ChangesNoResult("root", "download", "in_memory")]
DType = Literal["float32", "float16", "bfloat16"]
