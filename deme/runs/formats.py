"""What the files of a run directory hold (docs/runs.md#formats), for the readers that check it.

Keys that are not named here may be anything: a later version may add some.
"""

from typing import Annotated, Literal, NotRequired, Required

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

from deme.system.reading import Whole

Seconds = Annotated[float, Ge(0)]
Number = Annotated[float, Ge(-1e100), Le(1e100)]  # sums and squares of such are finite
# replicates.json: the bootstrap replicates of each metric
Replicates = dict[str, Annotated[list[Number], Len(2)]]


class Status(TypedDict, total=False):
    """status.json."""

    state: Required[Literal["running", "done", "failed", "preempted"]]
    weights: dict[str, str]  # the sha256 of each folder of weights
    seconds: Seconds
    outputs: dict[str, Whole]  # the size of each, in bytes
    time: Seconds  # since 1970, of the last change of the state
    error: str
    exit_code: Whole  # of the error
    job: str  # of SLURM


class Command(TypedDict, total=False):
    """What run.json says of how a run was started."""

    command: list[str]
    directory: str


class Git(TypedDict):
    """The state of the repository that a run was made in."""

    commit: str
    dirty: bool


class Provenance(Command, total=False):
    """run.json."""

    inputs: Required[dict[str, dict[str, str]]]  # name -> path -> hash
    deme: str
    python: str
    platform: str
    versions: dict[str, str]
    git: Git | None


class Frozen(TypedDict):
    """config.yaml of a run; its settings are checked when they are used."""

    stage: str
    cell: dict[str, str | int | None]


class Metric(TypedDict, total=False):
    """A value in metrics.json, and what it is."""

    value: Required[Number]
    n: Required[Whole]
    reference: Required[str]
    implementation: Required[str]
    better: Required[Literal["lower", "higher"]]
    std: Number
    interval: Annotated[list[Number], Len(2, 2)]
    num_images: Whole
    prompts: Whole
    range: str


class Metrics(TypedDict):
    """metrics.json of an evaluation or a search."""

    cell: dict[str, str | int | None]
    metrics: dict[str, Metric]


class Cost(TypedDict):
    """cost.json."""

    num_forward_passes: Whole


class Target(TypedDict):
    """An option: its class and any arguments."""

    _target_: str


class Best(TypedDict, total=False):
    """best.json of a search."""

    weights: Required[list[float]]
    weights_by_name: dict[str, list[float]]
    score: Required[float]
    ranges: list[list[Whole] | None]
    merge: Target
    models: list[str]


class LossMass(TypedDict):
    """weighting.json: the ranges of timesteps, among others."""

    ranges: list[str]


class Affinity(TypedDict, total=False):
    """affinity.json, and the numbers of figure=gradient_similarity."""

    cosines: Required[list[list[float]]]
    reliability: list[float]
    num_timesteps: Whole
    num_images: Whole
    base: str | None


class OutcomeRow(TypedDict):
    """A metric before and after `deme improve`."""

    before: float
    after: float
    difference: str
    verdict: str


class Tried(TypedDict, total=False):
    """An idea of `deme improve`; `before` is the model that was given."""

    idea: Required[str]
    score: Required[Number | None]  # on validation images, lower is better; None: not measured
    num_forward_passes: Required[Whole]  # of the training and the search for merge weights
    seconds: Required[Seconds]
    left_out: str  # why
    note: str  # why its model was not measured, though nothing failed


class Outcome(TypedDict):
    """outcome.json of `deme improve`."""

    metric: str
    better: bool
    metrics: dict[str, OutcomeRow]
    idea: str  # "before": no idea made another model
    model: str  # the run of the best candidate, "" if no idea made another model
    weights: list[float] | None  # of a merge
    num_test_images: NotRequired[Whole]  # whose losses are compared
    detectable: NotRequired[float]  # the improvement of `metric` that is found with 80% power
    tried: list[Tried]


class TrialPlan(TypedDict):
    """plan.json of `deme improve`."""

    seconds_per_step: float
    seconds_for_the_rest: float
    num_steps: int
    left_out: NotRequired[dict[str, str]]  # ideas that the time is too short for, and why
