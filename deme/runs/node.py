"""One run of a suite: what it is made from, whether it is done, and how to make it by hand."""

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs.config import compose_stage
from deme.runs.overrides import as_value
from deme.runs.run import Run
from deme.runs.run_files import cost_of
from deme.runs.settings import (
    Config,
    NeededFile,
    RunSettings,
    SearchSettings,
    TrainSettings,
    missing_official,
    needed_files,
    placed,
    row_at_base,
    run_settings,
)
from deme.runs.settings.architecture import refuse_open
from deme.runs.weights import weights_folder
from deme.system import EMA_WEIGHTS, SNAPSHOTS, BadConfig, DemeError, MissingInput

if TYPE_CHECKING:
    from deme.runs.suite import Suite

ORDER = (
    "pretraining", "train", "search", "training from runs", "average", "merge", "evaluate",
)  # fmt: skip
BLOCKED = ("waiting", "missing_file")  # states of runs that cannot start


@dataclass(eq=False)
class Node:
    """A run that the table needs: a stage of a row, for its base, its seeds and its expert."""

    suite: "Suite" = field(repr=False)
    row: str
    stage: str
    seed: int | None
    sample_seed: int | None = None
    expert: int | None = None
    copy: int | None = None
    base_name: str | None = None
    pretrain_seed: int | None = None  # of the base
    inputs: dict[str, "list[Node]"] = field(default_factory=dict, repr=False)
    overrides: list[str] = field(default_factory=list, repr=False)
    base: "Node | None" = field(
        default=None, repr=False
    )  # makes the model that this run starts from
    weights: str | None = None  # raw or ema: those of the base, if not its default
    missing_file: DemeError | None = field(default=None, repr=False)  # what the user has to bring
    _run: Run | None = field(default=None, repr=False)
    _done: bool = field(default=False, repr=False)
    _base_weights: Path | None = field(default=None, repr=False)
    _no_weights: str | None = field(default=None, repr=False)  # why the base has not those named

    @property
    def waits_for_base(self) -> bool:
        """Whether the model that this run starts from is not trained yet."""
        return self.base is not None and self.base.state != "done"

    @property
    def path(self) -> Path:
        """The directory of a run whose inputs are finished."""
        assert self.run is not None, f"{self.title} waits for its inputs"
        return self.run.path

    @property
    def base_weights(self) -> Path | None:
        """The folder of the weights that this run starts from, once its base is made."""
        if self._base_weights is None and self.base is not None and not self.waits_for_base:
            try:
                self._base_weights = weights_folder(self.base.path, self.weights or EMA_WEIGHTS)
            except BadConfig as error:
                self._base_weights = self.base.path / "weights" / (self.weights or EMA_WEIGHTS)
                self._no_weights = str(error)
        return self._base_weights

    @property
    def config(self) -> Config:
        """The resolved config; its inputs, and the model of an untrained base, are still open."""
        return self._config_with({})

    @property
    def needed_files(self) -> list[NeededFile]:
        """The files that the run reads below paths.data and paths.models; no models of runs."""
        return needed_files(self.config, model_is_made=self.base is not None)

    def _config_with(self, inputs: Mapping[str, list[str]]) -> Config:
        given = tuple(f"inputs.{name}" for name in self.inputs)  # by the suite
        still_open = (*given, "model.path") if self.waits_for_base else given
        with self._named():
            config = compose_stage(self.stage, self.overrides, still_open, **self.values)
            refuse_open(config)
        replaced = self.suite.replaced.get(self.stage, {})
        config |= {key: value for key, value in replaced.items() if key in config}
        return placed(config, self.suite.runs, inputs, self.labels)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Add the file, row and stage to errors raised in the block."""
        try:
            yield
        except BadConfig as error:
            place = f"{self.suite.file}: row {self.row}: {self.stage}: "
            raise BadConfig(f"{place}{str(error).removeprefix(place)}") from error

    @property
    def settings(self) -> RunSettings:
        """The checked settings of the run. Raises BadConfig."""
        # some rules ask whether an input is given
        titles = {name: [node.title for node in nodes] for name, nodes in self.inputs.items()}
        config = self._config_with(titles)
        with self._named():
            settings = run_settings(config)
        self._check_seed(settings)
        for name, nodes in self.inputs.items():
            if settings.weights_meant(name, len(nodes)) == SNAPSHOTS:
                self._check_snapshots(nodes)
        return settings

    def _check_snapshots(self, sources: Sequence["Node"]) -> None:
        """Raise BadConfig for a run whose snapshots are wanted, and that keeps none."""
        for node in sources:
            settings = node.settings
            if not isinstance(settings, TrainSettings) or not settings.num_snapshots:
                raise BadConfig(
                    f"{self.suite.file}: row {self.row} averages the snapshots of row {node.row}, "
                    "which keeps none\ntype: snapshots.every=<n> in the train stage of that row"
                )

    def _check_seed(self, settings: RunSettings) -> None:
        """Raise BadConfig for a search that uses the noise of an evaluation."""
        seed = settings.sample_seed if isinstance(settings, SearchSettings) else None
        if seed in self.suite.sample_seeds:
            raise BadConfig(
                f"{self.suite.file}: row {self.row} searches with sample_seed={seed}, which the "
                "table reports\n"
                "choose a sample_seed for the search that is not among sample_seeds"
            )

    @property
    def values(self) -> dict[str, int | str]:
        """The seeds, the expert, the copy and the path of the base, as configuration values."""
        found = {
            "seed": self.seed,
            "expert": self.expert,
            "sample_seed": self.sample_seed,
            "copy": self.copy,
            "model.path": None if self.base_weights is None else str(self.base_weights),
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def labels(self) -> dict[str, int | str]:
        """What the cell says of the base, in a suite of several."""
        found = {"base": self.base_name, "pretrain_seed": self.pretrain_seed}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def run(self) -> Run | None:
        """The run directory, or None while an input is not finished: its content is in the id."""
        if self._run is None:
            inputs = [node for nodes in self.inputs.values() for node in nodes]
            if self.waits_for_base or any(node.state != "done" for node in inputs):
                return None
            paths = {
                name: [str(node.path) for node in nodes] for name, nodes in self.inputs.items()
            }
            if self.base_weights is not None and self._no_weights is not None:
                place = f"{self.suite.file}: row {self.row}: base {self.base_name}"
                raise MissingInput(f"{place}: {self._no_weights}")
            config = self._config_with(paths)
            with self._named():
                run = Run.planned(config)
            self._check_seed(run.settings)
            self._run = run
        return self._run

    @property
    def state(self) -> str:
        """That of the run, or of one that cannot start: waiting (for another run), missing_file."""
        if self._done:
            return "done"
        self.missing_file = None
        try:
            run = self.run
        except (MissingInput, BadConfig) as error:  # of this run alone: others can start
            return self._lacking(error)
        if run is None:
            return "waiting"
        state = run.state
        self._done = state == "done"
        missing = None if self._done else missing_official(run.config)
        return state if missing is None else self._lacking(missing)

    def _lacking(self, error: DemeError) -> str:
        """Record why this run cannot start, and which command obtains its files."""
        advice = self.suite.prepare if isinstance(error, MissingInput) else None
        self.missing_file = type(error)(f"{error}\ntype: {advice}") if advice else error
        return "missing_file"

    @property
    def command(self) -> str:
        """The command that makes this run by hand."""
        values = self.values
        path = values.pop("model.path", None)
        words = [*dict.fromkeys(reversed(self.overrides))][::-1]  # of equal ones the last
        args = ["deme", self.stage, *words]
        args += [] if path is None else [f"model.path={as_value(path)}"]
        args += [f"{name}={value}" for name, value in values.items()]
        args += [f"+cell.{name}={value}" for name, value in self.labels.items()]
        runs = self.suite.runs
        args += [] if runs == Path("runs") else [f"paths.runs={as_value(runs)}"]
        run = self.run if self.state != "missing_file" else None
        for name, paths in run.inputs.items() if run is not None else ():
            args += [f"inputs.{name}={as_value(paths)}"] if paths else []
        return shlex.join(args)

    @property
    def num_forward_passes(self) -> int:
        """The cost of this run in forward passes of one image; a backward pass counts as two.

        A finished training or search has recorded what it took; before that it is estimated.
        """
        settings = self.settings
        if self.state == "done" and (recorded := cost_of(self.path)) is not None:
            return recorded
        return settings.num_forward_passes(self._num_experts)

    @property
    def _num_experts(self) -> int:
        """How many models a search combines: experts, or the snapshots of a training run."""
        sources = [node.settings for node in self.inputs.get("snapshots_of", [])]
        snapshots = [each.num_snapshots for each in sources if isinstance(each, TrainSettings)]
        return sum(snapshots) or len(self.inputs.get("experts", []))

    @property
    def title(self) -> str:
        """Row, stage and seeds."""
        values = {
            "base": self.base_name,
            "pretraining seed": self.pretrain_seed,
            "expert": self.expert,
            "copy": self.copy if self.expert is None else None,
            "seed": self.seed,
            "sample seed": self.sample_seed,
        }
        texts = [f"{name} {value}" for name, value in values.items() if value is not None]
        return ", ".join([f"{self.row} {self.stage}", *texts])

    @property
    def pretrains(self) -> bool:
        """Whether this run makes a base, or what a base starts from."""
        return self.row in self.suite.settings.pretraining

    @property
    def row_and_base(self) -> str:
        """How tables of runs and comparisons name the row: <row>@<base> in a suite of several."""
        return row_at_base(self.row, self.base_name)

    @cached_property
    def order(self) -> tuple[int, int]:
        """When its turn comes: with its stage, but no earlier than its inputs and its base.

        First counts how often training started from a model that is no base.
        """
        if self.pretrains:
            return 0, ORDER.index("pretraining")
        from_runs = self.stage == "train" and self.inputs
        again = self.base is not None and not self.base.pretrains
        depth = self.base.order[0] + 1 if self.base is not None and again else 0
        own = depth, ORDER.index("training from runs" if from_runs else self.stage)
        return max([own, *(node.order for nodes in self.inputs.values() for node in nodes)])

    @property
    def parents(self) -> list["Node"]:
        """The inputs and the base."""
        found = [node for nodes in self.inputs.values() for node in nodes]
        return [*found, self.base] if self.base is not None else found

    @property
    def training(self) -> "Node":
        """The training whose weights this run has, by itself, by averaging or by merging."""
        inputs = [*self.inputs.get("run", []), *self.inputs.get("experts", [])]
        return self if self.stage == "train" else inputs[0].training

    @cached_property
    def ancestors(self) -> list["Node"]:
        """Everything that goes into this run, each once, inputs first."""
        found = [node for parent in self.parents for node in (*parent.ancestors, parent)]
        return list(dict.fromkeys(found))
