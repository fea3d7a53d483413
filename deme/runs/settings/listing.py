"""The options of `deme ls`, `deme show` and `deme clean`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, model_validator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import STRICT, Name, Switch, key, refuse
from deme.system import exists


def _folder(text: str) -> str:
    if exists(text) and not Path(text).is_dir():
        raise ValueError("a folder")
    return text


RunsFolder = Annotated[
    Name, AfterValidator(_folder), key("The folder of all runs.", "/scratch/runs")
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ListOptions:
    """The options of deme ls; every other argument with an equals sign is a filter."""

    runs: RunsFolder = "runs"
    sort: Annotated[Name | None, key("Column to sort by; -<column>: largest first.", "-loss")] = (
        None
    )
    json: Annotated[Switch, key("Whether to print JSON.", True)] = False
    csv: Annotated[Switch, key("Whether to print CSV.", True)] = False

    @model_validator(mode="after")
    def _one_format(self) -> "ListOptions":
        refuse(self.json and self.csv, "json=true and csv=true exclude each other\ntype: one")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShowOptions:
    """The options of deme show."""

    runs: RunsFolder = "runs"
    json: Annotated[Switch, key("Whether to print JSON.", True)] = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CleanOptions:
    """The options of deme clean."""

    runs: RunsFolder = "runs"
    yes: Annotated[Switch, key("Whether to delete what was found.", True)] = False
