"""The format of a suite file: every key with its type, its meaning and an example (docs/suites.md).

A suite is a table as data. Its rows name the stages that they need, each with the overrides that
`deme <stage>` would be given on the command line.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from deme.runs.settings.base import (
    STRICT,
    FileName,
    FolderHere,
    Line,
    Name,
    NotNegative,
    Number,
    Positive,
    Processes,
    Switch,
    Time,
    different,
    key,
)
from deme.runs.settings.listing import RunsFolder
from deme.runs.settings.suite_rows import (
    CommonSettings,
    RowSettings,
    Seeds,
    StartSettings,
)


def row_and_base(name: str) -> tuple[str, str | None]:
    """Return row and base of "<row>@<base>" or "<row>"."""
    row, _, base = name.partition("@")
    return row, base or None


def row_at_base(row: str, base: str | None) -> str:
    """Return "<row>@<base>", or "<row>" without a base: what `row_and_base` takes apart."""
    return f"{row}@{base}" if base else row


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairedSpread:
    """Standard deviations of a row's difference to the baseline, as seen in earlier runs."""

    sampling: Annotated[NotNegative, key("Of one paired difference, from the bootstrap.", 0.25)]
    finetuning: Annotated[NotNegative, key("Between finetuning seeds.", 0.8)]
    pretraining: Annotated[
        NotNegative | None, key("Between pretraining seeds, beyond that.", 1.5)
    ] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanSettings:
    """What `deme plan` needs to estimate time and statistical power."""

    gflop_per_forward_pass: Annotated[
        Positive | None, key("GFLOP of the network's forward pass of one image.", 12.44)
    ] = None
    seconds_per_million_forward_passes: Annotated[
        Positive | None, key("Used until finished runs show the speed of this machine.", 57)
    ] = None
    paired_sd: Annotated[
        Mapping[str, PairedSpread],
        key(
            "Standard deviations per metric, or metric@base, for the detectable difference.",
            {"fd_digits": {"sampling": 0.25, "finetuning": 0.8, "pretraining": 1.0}},
        ),
    ] = Field(default_factory=dict)
    paired_sd_from: Annotated[
        Line,
        key(
            "Where these standard deviations come from; `deme plan` prints it.",
            "experiments/digits",
        ),
    ] = "the suite"


Tflops = Annotated[float, Field(ge=1e-3, le=1e9, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SuiteOptions:
    """The options of `deme plan`, `reproduce` and `table`."""

    runs: RunsFolder = "runs"
    results: Annotated[
        Name | None,
        key("The folder that the table is written to; default: results/ at the suite file.", "out"),
    ] = None
    jobs: Annotated[Processes, key("Number of processes that work in parallel.", 2)] = 1
    minutes: Annotated[
        Time | None, key("Minutes after which to stop; the same command resumes.", 50)
    ] = None
    retry: Annotated[
        Literal["failed"] | None, key("Whether to try failed runs again.", "failed")
    ] = None
    tflops: Annotated[
        Tflops | None, key("TFLOP/s of a device, to estimate the hours on it.", 100)
    ] = None
    all: Annotated[Switch, key("Whether to list every run, not only the rows.", True)] = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrepareOptions:
    """The options of `deme prepare`."""

    runs: RunsFolder = "runs"
    fetch: Annotated[Switch, key("Whether to download, unpack and convert.", True)] = False
    list: Annotated[
        Switch, key("Whether to print a script for a machine with a network.", True)
    ] = False
    from_folder: Annotated[
        Name | None, Field(alias="from"), key("The folder of the downloaded files.", "carried/")
    ] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DashboardOptions:
    """The options of `deme dashboard`."""

    runs: RunsFolder = "runs"
    project: Annotated[Name, key("Name of the project at Weights & Biases.", "deme")] = "deme"
    entity: Annotated[Name | None, key("User or team at Weights & Biases.", "my-team")] = None
    out: Annotated[
        Name | None, key("File to which the specification is written.", "dashboard.json")
    ] = None


class PublishedNumbers(TypedDict):
    """A file of published values: row -> metric -> value."""

    rows: Mapping[str, Mapping[str, Number]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SuiteSettings:
    """A suite file."""

    suite: Annotated[FileName, key("Name; runs are in <paths.runs>/<suite>/<stage>/.", "digits")]
    title: Annotated[Line | None, key("Heading of the table.", "Digits 8x8: DeMe")] = None
    extends: Annotated[
        Name | None,
        key(
            "Suite file, relative to this one, whose keys this one starts from: keys given here "
            "replace them, `common` stage by stage, and rows given here are added.",
            "../shared/unconditional.yaml",
        ),
    ] = None
    variables: Annotated[
        Mapping[str, str],
        key("Values of $name in the file that `extends` names.", {"experiment": "cifar10"}),
    ] = Field(default_factory=dict)
    results: Annotated[
        FolderHere | None,
        key(
            "Folder of the table and its figures, below the current one; default: results/ next to "
            "the file. Another place: results=<dir> on the command line.",
            "out",
        ),
    ] = None
    rows: Annotated[
        tuple[RowSettings, ...],
        Field(min_length=1),
        key("The rows of the table, in order.", [{"name": "p2", "label": "P2", "evaluate": []}]),
    ]
    common: Annotated[
        CommonSettings,
        key("Overrides of all rows.", {"merge": ["experiment=digits/merge"]}),
    ] = CommonSettings()
    baseline: Annotated[Name, key("Row that all others are compared to.", "before")]
    pretrained_by: Annotated[
        Name | None,
        key(
            "Row, of a train stage alone, that pretrains the model that all other rows start "
            "from. It is trained once, whatever finetune_seeds is.",
            "pretrain",
        ),
    ] = None
    bases: Annotated[
        Mapping[FileName, StartSettings],
        key(
            "Instead of pretrained_by: several models that rows start from, by name. Every row "
            "is made for each of them.",
            {"raw": {"row": "pretrain", "weights": "raw"}, "averaged": {"row": "pretrain"}},
        ),
    ] = Field(default_factory=dict)
    pretrain_seeds: Annotated[
        Seeds | None,
        key(
            "Every base is pretrained once for each, and all other rows are made once for each of "
            "these models; without it, once with its own seed.",
            [0, 1],
        ),
    ] = None
    metrics: Annotated[
        tuple[Line, ...],
        AfterValidator(different),
        key("Columns of the table.", ["fd_digits", "loss"]),
    ]
    finetune_seeds: Annotated[
        Seeds, key("Every row is trained, searched and merged once for each.", [0, 1, 2])
    ]
    sample_seeds: Annotated[Seeds, key("Every model is evaluated once for each.", [100, 101, 102])]
    comparisons: Annotated[
        tuple[tuple[Name, Name], ...],
        key(
            "Further pairs of rows: the first minus the second, for each base; <row>@<base> for "
            "rows of two bases.",
            [["deme_uniform", "finetune"], ["deme_uniform@raw", "before@averaged"]],
        ),
    ] = ()
    expected: Annotated[
        Name | None,
        key(
            'JSON file of published values, {"rows": {<row>: {<metric>: <number>}}}, shown next to '
            "the measured ones; <row>@<base> for those of one base.",
            "expected.json",
        ),
    ] = None
    runs_shared_with: Annotated[
        tuple[Name, ...],
        key("Suites of the same name whose runs do not count as stale here.", ["../imagenet"]),
    ] = ()
    files: Annotated[
        tuple[Name, ...],
        key(
            "Files that say where the files that runs read come from, relative to this one, for "
            "`deme prepare`.",
            ["files.yaml", "../shared/files.yaml"],
        ),
    ] = ()
    plan: Annotated[
        PlanSettings, key("Estimates for `deme plan`.", {"gflop_per_forward_pass": 12.44})
    ] = PlanSettings()
    notes: Annotated[tuple[str, ...], key("Lines below the table.", ["One GPU."])] = ()
    show_parts: Annotated[
        Switch, key("Also print the loss per timestep range on the terminal.", True)
    ] = False

    @cached_property
    def starts(self) -> Mapping[str | None, StartSettings]:
        """The bases by name; None is the name of the only one of a suite without `bases`."""
        if not self.bases:
            return {None: StartSettings(row=self.pretrained_by)}
        return dict(self.bases.items())

    @cached_property
    def pretraining(self) -> frozenset[str]:
        """The names of rows that make bases, and of rows that those start from or average."""
        rows = {row.name: row for row in self.rows}
        found: set[str] = set()
        todo = [start.row for start in self.starts.values()]
        while todo:
            name = todo.pop()
            if name is not None and name in rows and name not in found:
                found.add(name)
                todo += [rows[name].starts_from, rows[name].experts_of]
        return frozenset(found)

    @property
    def several_bases(self) -> bool:
        """Whether there are several bases: of several kinds, or of several pretraining seeds."""
        return bool(self.bases or self.pretrain_seeds)

    def bases_of(self, row: RowSettings) -> tuple[str | None, ...]:
        """Return the bases that a row is laid out for: (None,) for one that has to do with none."""
        if row.name in self.pretraining or row.bases == ():
            return (None,)
        return tuple(self.starts) if row.bases is None else row.bases

    def pretrain_seeds_of(self, base: str | None) -> tuple[int | None, ...]:
        """Return the seeds that a base is pretrained with: (None,) for one that has none."""
        start = self.starts.get(base)
        if self.pretrain_seeds is None or start is None or start.row is None:
            return (None,)
        return self.pretrain_seeds

    def shared_bases(self, *rows: RowSettings) -> list[str | None]:
        """Return the bases that all of these rows are laid out for; one without any fits to all."""
        based = [self.bases_of(row) for row in rows if row.bases != ()]
        first = based[0] if based else (None,)
        return [base for base in first if all(base in bases for bases in based)]

    def label_of(self, base: str | None) -> str:
        """Return what tables call a base."""
        return self.starts[base].label or str(base)
