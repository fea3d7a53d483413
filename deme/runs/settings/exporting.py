"""The settings of deme export."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import STRICT, Name, Switch
from deme.runs.settings.groups import CommandSettings, DType


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportSettings(CommandSettings):
    """deme export."""

    stage: Literal["export"]
    run: Name | Annotated[list[Name], Field(min_length=1)]
    out: Name
    format: Literal["diffusers", "kohya"]
    boundary_ratio: Annotated[float, Field(gt=0, lt=1)] | None
    dtype: DType
    keep_projections: Switch
    license: str | None
    overwrite: Switch
    push: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None
    private: Switch
    dry_run: Switch

    @property
    def runs(self) -> list[str]:
        """What is exported: one model, or several experts."""
        return self.run if isinstance(self.run, list) else [self.run]

    @property
    def called(self) -> str:
        """What from_pretrained takes: the repository that is pushed to, or the folder."""
        return self.push or self.out
