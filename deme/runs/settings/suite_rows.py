"""The rows of a suite file, and the models that they start from (docs/suites.md)."""

from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import (
    STRICT,
    Count,
    FileName,
    Line,
    Name,
    Positive,
    Seed,
    Switch,
    TwoOrMore,
    Whole,
    different,
    key,
)

# the stages of a row; average comes before search where the averages are merged
CHAIN = ("train", "search", "average", "merge", "evaluate")

Overrides = tuple[str, ...]


def once(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return values that are given once each, or none. Raises ValueError for others."""
    return different(values) if values else values


Seeds = Annotated[tuple[Seed, ...], AfterValidator(different)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JobSettings:
    """What a job of its own has, where that differs from the options of the launcher."""

    gpus: Annotated[Count | None, key("GPUs of the job: so many processes train together.", 4)] = (
        None
    )
    hours: Annotated[Positive | None, key("Time limit of the job, in hours.", 24.0)] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RowSettings:
    """One row of the table: a model, and how it is made. A stage that is left out is not run."""

    name: Annotated[
        FileName,
        key("Unique name; evaluations and merges carry it as cell.method.", "deme_uniform"),
    ]
    label: Annotated[Line, key("Text of the first column.", "DeMe merged, uniform")]
    after: Annotated[
        Name | None,
        key("Row that this one follows in the table, for rows added to those of `extends`.", "p2"),
    ] = None
    train: Annotated[
        Overrides | None,
        key("Overrides of `deme train`; [] for none.", ["experiment=digits/finetune"]),
    ] = None
    experts: Annotated[
        Annotated[tuple[Whole, ...], AfterValidator(different)] | None,
        key(
            "Train one expert per range instead of one model. Without a merge in this row they are "
            "evaluated routed by timestep (source=experts).",
            [0, 1, 2, 3],
        ),
    ] = None
    copies: Annotated[
        TwoOrMore | None,
        key(
            "Train this many models that differ only in their random numbers (copy=0, 1, ...), to "
            "average, merge or search.",
            4,
        ),
    ] = None
    independent: Annotated[
        Switch, key("Whether each expert has its own random numbers (copy=<i>).", True)
    ] = False
    starts_from: Annotated[
        Name | None,
        key(
            "Row whose model the training starts from, instead of the base: the merge of that row "
            "if it has one, else its average, else its trained model.",
            "deme_uniform",
        ),
    ] = None
    bases: Annotated[
        Annotated[tuple[Name, ...], AfterValidator(once)] | None,
        key(
            "Those of the suite's `bases` that the row is made for, if not all; [] for a row "
            "that does not depend on a base.",
            ["raw"],
        ),
    ] = None
    experts_of: Annotated[
        Name | None,
        key(
            "Row whose models are averaged, searched or merged here: its averages, or what it "
            "trained; with train, those that this training takes as inputs.experts "
            "(method=distill).",
            "deme_before_merge",
        ),
    ] = None
    average: Annotated[
        Overrides | None,
        key(
            "Overrides of `deme average`. Of a row that trains: of each model's snapshots, to be "
            "merged or evaluated in its place; of copies, or with experts_of: one average of all "
            "models, of a single one's snapshots; of neither: of the snapshots of the run that "
            "trained the base.",
            ["average=mean"],
        ),
    ] = None
    search: Annotated[
        Overrides | None,
        key(
            "Overrides of `deme search`, whose merge weights `merge` uses; of a row with `average` "
            "and no `merge`, of its search for a mixture of snapshots.",
            ["search=grid"],
        ),
    ] = None
    search_of: Annotated[
        Name | None,
        key("Row whose merge weights this row's training takes as inputs.search.", "deme_search"),
    ] = None
    merge: Annotated[
        Overrides | None, key("Overrides of `deme merge`.", ["merge.weights=[0.1,0.1,0.2,0.5]"])
    ] = None
    evaluate: Annotated[
        Overrides | None,
        key("Overrides of `deme evaluate`; without it the row is not in the table.", []),
    ] = None
    job: Annotated[
        Literal["own"] | JobSettings | None,
        key(
            "With launcher=slurm each training of this row is a job of its own, instead of being "
            "done by one of the workers: `own`, or the GPUs and hours of that job.",
            {"gpus": 4, "hours": 24.0},
        ),
    ] = None
    sample_seeds: Annotated[
        Seeds | None, key("Sampling seeds of this row, if not those of the suite.", [100])
    ] = None

    @property
    def mixes_snapshots(self) -> bool:
        """Whether the row's search is for a mixture of one model's snapshots."""
        return self.search is not None and self.average is not None and self.merge is None

    def overrides(self, stage: str) -> Overrides | None:
        """Return the overrides of a stage, or None if the row does not have it."""
        found: Overrides | None = getattr(self, stage)
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CommonSettings:
    """Overrides that every run of a stage starts with, before those of its row."""

    train: Annotated[Overrides, key("Overrides of every training.", ["num_steps=250"])] = ()
    average: Annotated[Overrides, key("Overrides of every average.", ["average=mean"])] = ()
    search: Annotated[
        Overrides, key("Overrides of every search.", ["experiment=digits/search"])
    ] = ()
    merge: Annotated[Overrides, key("Overrides of every merge.", ["experiment=digits/merge"])] = ()
    evaluate: Annotated[
        Overrides, key("Overrides of every evaluation.", ["experiment=digits/evaluate"])
    ] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartSettings:
    """A base: the model that rows start from. It is trained by a row, or is a checkpoint."""

    row: Annotated[
        Name | None,
        key(
            "Row that pretrains it, with a train stage, or a row that averages such a model.", "pre"
        ),
    ] = None
    weights: Annotated[
        Literal["raw", "ema"] | None,
        key(
            "Which weights of that run: the last ones or their average; without this key the "
            "average, the last ones where the run has none.",
            "raw",
        ),
    ] = None
    model: Annotated[
        Overrides | None,
        key(
            "Instead of `row`: the overrides that choose the model, for every stage.",
            ["model=diffusers", "model.path=models/ddpm_ema_cifar10"],
        ),
    ] = None
    label: Annotated[
        Line | None, key("Heading of the table's part for this base.", "raw weights")
    ] = None
