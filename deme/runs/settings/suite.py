"""The format of a suite file: every key with its type, its meaning and an example (docs/suites.md).

A suite is a table as data. Its rows name the stages that they need, each with the overrides that
`deme <stage>` would be given on the command line.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

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
    Seed,
    Switch,
    Time,
    Whole,
)


def _key(meaning: str, example: object) -> object:
    return Field(description=meaning, examples=[example])


CHAIN = ("train", "search", "merge", "evaluate")  # the stages of a row, in this order

Overrides = tuple[str, ...]
V = TypeVar("V")


def different(values: tuple[V, ...]) -> tuple[V, ...]:
    """Return values that are given once each. Raises ValueError for others."""
    if not values or len({*values}) < len(values):
        raise ValueError("a list of different values, at least one")
    return values


Seeds = Annotated[tuple[Seed, ...], AfterValidator(different)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RowSettings:
    """One row of the table: a model, and how it is made. A stage that is left out is not run."""

    name: Annotated[
        FileName,
        _key("Unique name; evaluations and merges carry it as cell.method.", "deme_uniform"),
    ]
    label: Annotated[Line, _key("Text of the first column.", "DeMe merged, uniform")]
    after: Annotated[
        Name | None,
        _key("Row that this one follows in the table, for rows added to those of `extends`.", "p2"),
    ] = None
    train: Annotated[
        Overrides | None,
        _key("Overrides of `deme train`; [] for none.", ["experiment=digits/finetune"]),
    ] = None
    experts: Annotated[
        Annotated[tuple[Whole, ...], AfterValidator(different)] | None,
        _key(
            "Train one expert per range instead of one model, and evaluate them routed by timestep "
            "(source=experts).",
            [0, 1, 2, 3],
        ),
    ] = None
    experts_of: Annotated[
        Name | None,
        _key("Row whose trained models are searched or merged here.", "deme_before_merge"),
    ] = None
    search: Annotated[
        Overrides | None,
        _key("Overrides of `deme search`, whose merge weights `merge` uses.", ["search=grid"]),
    ] = None
    search_of: Annotated[
        Name | None,
        _key("Row whose merge weights this row's training takes as inputs.search.", "deme_search"),
    ] = None
    merge: Annotated[
        Overrides | None, _key("Overrides of `deme merge`.", ["merge.weights=[0.1,0.1,0.2,0.5]"])
    ] = None
    evaluate: Annotated[
        Overrides | None,
        _key("Overrides of `deme evaluate`; without it the row is not in the table.", []),
    ] = None
    sample_seeds: Annotated[
        Seeds | None, _key("Sampling seeds of this row, if not those of the suite.", [100])
    ] = None

    def overrides(self, stage: str) -> Overrides | None:
        """Return the overrides of a stage, or None if the row does not have it."""
        found: Overrides | None = getattr(self, stage)
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CommonSettings:
    """Overrides that every run of a stage starts with, before those of its row."""

    train: Annotated[Overrides, _key("Of every training.", ["num_steps=250"])] = ()
    search: Annotated[Overrides, _key("Of every search.", ["experiment=digits/search"])] = ()
    merge: Annotated[Overrides, _key("Of every merge.", ["experiment=digits/merge"])] = ()
    evaluate: Annotated[
        Overrides, _key("Of every evaluation.", ["experiment=digits/evaluate"])
    ] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairedSpread:
    """Standard deviations of a row's difference to the baseline, as seen in earlier runs."""

    sampling: Annotated[NotNegative, _key("Of one paired difference, by the bootstrap.", 0.25)]
    finetuning: Annotated[NotNegative, _key("Between finetuning seeds.", 0.8)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanSettings:
    """What `deme plan` needs to estimate time and statistical power."""

    gflop_per_forward_pass: Annotated[
        Positive | None, _key("GFLOP of the network's forward pass of one image.", 12.44)
    ] = None
    seconds_per_million_forward_passes: Annotated[
        Positive | None, _key("Used until finished runs show how fast this machine is.", 57)
    ] = None
    paired_sd: Annotated[
        Mapping[str, PairedSpread],
        _key(
            "Per metric, for the smallest difference that the table could find.",
            {"fd_digits": {"sampling": 0.25, "finetuning": 0.8}},
        ),
    ] = Field(default_factory=dict)


Tflops = Annotated[float, Field(ge=1e-3, le=1e9, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SuiteOptions:
    """What `deme plan`, `reproduce` and `table` take beside the suite."""

    runs: Name = "runs"  # the folder of all runs
    results: Name | None = None  # the folder of the table, if not that of the suite
    jobs: Processes = 1  # processes
    minutes: Time | None = None  # after which to stop
    tflops: Tflops | None = None  # of the device to estimate for
    all: Switch = False  # whether to list every run


class PublishedNumbers(TypedDict):
    """A file of published values: row -> metric -> value."""

    rows: Mapping[str, Mapping[str, Number]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SuiteSettings:
    """A suite file."""

    suite: Annotated[FileName, _key("Name; runs are in <paths.runs>/<suite>/<stage>/.", "digits")]
    title: Annotated[Line | None, _key("Heading of the table.", "Digits 8x8: DeMe")] = None
    extends: Annotated[
        Name | None,
        _key(
            "Suite file, relative to this one, whose keys this one starts from: keys given here "
            "replace them, `common` stage by stage, and rows given here are added.",
            "../shared/unconditional.yaml",
        ),
    ] = None
    variables: Annotated[
        Mapping[str, str],
        _key("What $name stands for in the file that `extends` names.", {"experiment": "cifar10"}),
    ] = Field(default_factory=dict)
    results: Annotated[
        FolderHere | None,
        _key(
            "Folder of the table and its figures, below the current one; default: results/ beside "
            "the file. Another place: results=<dir> on the command line.",
            "out",
        ),
    ] = None
    rows: Annotated[
        tuple[RowSettings, ...],
        Field(min_length=1),
        _key("The rows of the table, in order.", [{"name": "p2", "label": "P2", "evaluate": []}]),
    ]
    common: Annotated[
        CommonSettings,
        _key("Overrides of all rows.", {"merge": ["experiment=digits/merge"]}),
    ] = CommonSettings()
    baseline: Annotated[Name, _key("Row that all others are compared to.", "before")]
    pretrained_by: Annotated[
        Name | None,
        _key(
            "Row, of a train stage alone, that pretrains the model that all other rows start "
            "from. It is trained once, whatever finetune_seeds is.",
            "pretrain",
        ),
    ] = None
    metrics: Annotated[
        tuple[Line, ...],
        AfterValidator(different),
        _key("Columns of the table.", ["fd_digits", "loss"]),
    ]
    finetune_seeds: Annotated[
        Seeds, _key("Every row is trained, searched and merged once for each.", [0, 1, 2])
    ]
    sample_seeds: Annotated[Seeds, _key("Every model is evaluated once for each.", [100, 101, 102])]
    comparisons: Annotated[
        tuple[tuple[Name, Name], ...],
        _key("Further pairs of rows: the first minus the second.", [["deme_uniform", "finetune"]]),
    ] = ()
    expected: Annotated[
        Name | None,
        _key(
            'JSON file of published values, {"rows": {<row>: {<metric>: <number>}}}, shown beside '
            "the measured ones.",
            "expected.json",
        ),
    ] = None
    runs_shared_with: Annotated[
        tuple[Name, ...],
        _key("Suites of the same name whose runs are not stale for this one.", ["../imagenet"]),
    ] = ()
    plan: Annotated[PlanSettings, _key("For `deme plan`.", {"gflop_per_forward_pass": 12.44})] = (
        PlanSettings()
    )
    notes: Annotated[tuple[str, ...], _key("Lines below the table.", ["One GPU."])] = ()
    show_parts: Annotated[
        Switch, _key("Print the loss per range of timesteps on the terminal, too.", True)
    ] = False
