"""`deme new-suite`: write a suite file to start from, for your own model and images.

It has the rows of all methods, to choose from; `deme plan <file>` prints their cost. An existing
file is not replaced.
"""

import json
import re
import shlex
from pathlib import Path
from string import Template
from typing import Annotated

from pydantic.dataclasses import dataclass

from deme.commands import ARGUMENTS
from deme.commands.arguments import places_and_values
from deme.runs import STRICT, Name, build, options
from deme.runs.settings.base import key
from deme.system import (
    DATASETS,
    PACKAGE,
    BadConfig,
    MissingInput,
    exists,
    expanded,
    files,
    list_files,
    locate,
    print_result,
)

USAGE = f"deme new-suite {ARGUMENTS['new-suite']}"
TEMPLATE = PACKAGE / "assets" / "new_suite.yaml"
BATCH = 64
EXPERTS = 4
PASSES = 20  # epochs of an expert
FEWEST, MOST = 500, 20_000  # optimizer steps of an expert; the most are the paper's
UNKNOWN = 2000  # steps if the images cannot be counted: a data set, an LMDB, the Hub


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NewSuiteSettings:
    """deme new-suite."""

    data: Annotated[Name, key("The images.", "my_images/")]
    model: Annotated[Name, key("The base checkpoint.", "my_model/")]
    out: Annotated[Name, key("The file to write.", "suite.yaml")] = "suite.yaml"


def run(words: list[str]) -> None:
    """Write the file. Raises BadConfig if it exists, MissingInput if model or data do not exist."""
    loose, given = places_and_values(words)
    if loose:
        raise BadConfig(f"{loose[0]!r} is not <key>=<value>\ntype: {USAGE}")
    if absent := [key for key in ("data", "model") if key not in given]:
        raise BadConfig(f"{' and '.join(absent)} must be given\ntype: {USAGE}")
    settings = build(NewSuiteSettings, given, texts=True)
    out = expanded(settings.out)
    if out.suffix not in (".yaml", ".yml"):
        raise BadConfig(f"out={settings.out} must name a .yaml file\ntype: out=suite.yaml")
    if out.exists():
        raise BadConfig(f"{out} exists and is not replaced\ntype: out=<another file>")
    for group, value in (("data", settings.data), ("model", settings.model)):
        _check_place(group, value)
    files.write_text(out, suite_text(settings))
    print_result(
        f"wrote {out}: delete the rows that you do not want, with the comparisons that name them, "
        f"then: deme plan {shlex.quote(str(out))}"
    )


def suite_text(settings: NewSuiteSettings) -> str:
    """Return the text of the file."""
    steps = expert_steps(settings.data)
    total = EXPERTS * steps
    stem = Path(settings.out).stem
    name = Path(settings.data).name if stem == "suite" else stem
    values = {
        "file": settings.out,
        "name": re.sub(r"[^\w+-]+", "_", name).strip("_+-")[:60] or "mine",
        "model": json.dumps(f"model={settings.model}", ensure_ascii=False),
        "data": json.dumps(f"data={settings.data}", ensure_ascii=False),
        "title": json.dumps(f"Ways to improve {settings.model} on {settings.data}"[:200]),
        "batch": BATCH,
        "steps": steps,
        "total": total,
        # an expert's teacher takes a third of what training takes
        "compute": total * 4 // 3,
    }
    return Template(TEMPLATE.read_text()).substitute(values)


def expert_steps(data: str) -> int:
    """Return the optimizer steps of an expert: about `PASSES` passes over the training images."""
    if data in options("data") or data.startswith(DATASETS):
        return UNKNOWN
    count = len(list_files(locate(data)).files)
    found = UNKNOWN if count < BATCH else round(count * PASSES / BATCH, -2)
    return int(min(MOST, max(FEWEST, found)))


def _check_place(group: str, value: str) -> None:
    """Raise MissingInput for a name that is neither an option nor an existing place."""
    if value not in options(group) and ":" not in value and not exists(value):
        raise MissingInput(
            f"{group}={value} does not exist and is not an option of conf/{group}\n"
            f"type: {group}=<folder>, or one of {', '.join(options(group))}"
        )
