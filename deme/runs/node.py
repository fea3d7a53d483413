"""One run of a suite: what it is made from, whether it is done, and how to make it by hand."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs.config import compose_stage
from deme.runs.formats import Cost
from deme.runs.inputs import weights_folder
from deme.runs.run import Run
from deme.runs.settings import Config, RunSettings, SearchSettings, placed, run_settings
from deme.system import BadConfig, MissingInput, read_json

if TYPE_CHECKING:
    from deme.runs.suite import Suite

ORDER = ("pretraining", "train", "search", "training from a search", "merge", "evaluate")
BLOCKED = ("waiting", "missing_file")  # states of runs that cannot start


@dataclass(eq=False)
class Node:
    """A run that the table needs: a stage of a row, for its seeds and its expert."""

    suite: "Suite" = field(repr=False)
    row: str
    stage: str
    seed: int | None
    sample_seed: int | None = None
    expert: int | None = None
    inputs: dict[str, "list[Node]"] = field(default_factory=dict, repr=False)
    overrides: list[str] = field(default_factory=list, repr=False)
    base: "Node | None" = field(
        default=None, repr=False
    )  # trains the model that this run starts from
    missing_file: MissingInput | None = field(
        default=None, repr=False
    )  # what the user has to bring
    _run: Run | None = field(default=None, repr=False)
    _done: bool = field(default=False, repr=False)

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
    def args(self) -> list[str]:
        """The overrides, the path of the base among them once it is trained."""
        if self.base is None or self.waits_for_base:
            return self.overrides
        return [*self.overrides, f"model.path={weights_folder(self.base.path)}"]

    @property
    def config(self) -> Config:
        """The resolved config; its inputs, and the model of an untrained base, are still open."""
        return self._config_with({})

    def _config_with(self, inputs: Mapping[str, list[str]]) -> Config:
        still_open = ("inputs.experts", "model.path")[: 1 + self.waits_for_base]
        config = compose_stage(self.stage, self.args, still_open, **self.values)
        replaced = self.suite.replaced.get(self.stage, {})
        config |= {key: value for key, value in replaced.items() if key in config}
        return placed(config, self.suite.runs, inputs)

    @property
    def settings(self) -> RunSettings:
        """The checked settings of the run. Raises BadConfig."""
        # some rules ask whether an input is given
        titles = {name: [node.title for node in nodes] for name, nodes in self.inputs.items()}
        return self._checked(run_settings(self._config_with(titles)))

    def _checked(self, settings: RunSettings) -> RunSettings:
        seed = settings.sample_seed if isinstance(settings, SearchSettings) else None
        if seed in self.suite.sample_seeds:
            raise BadConfig(
                f"{self.suite.file}: row {self.row} searches with sample_seed={seed}, which the "
                "table reports\n"
                "choose a sample_seed for the search that is not among sample_seeds"
            )
        return settings

    @property
    def values(self) -> dict[str, int]:
        """The seeds and the expert, as configuration values."""
        found = {"seed": self.seed, "expert": self.expert, "sample_seed": self.sample_seed}
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
            run = Run.planned(self._config_with(paths))
            self._checked(run.settings)
            self._run = run
        return self._run

    @property
    def state(self) -> str:
        """That of the run, or of one that cannot start: waiting (for another run), missing_file."""
        if self._done:
            return "done"
        try:
            run = self.run
        except MissingInput as error:
            self.missing_file = error
            return "missing_file"
        self.missing_file = None
        if run is None:
            return "waiting"
        state = run.state
        self._done = state == "done"
        return state

    @property
    def command(self) -> str:
        """The command that makes this run by hand."""
        args = ["deme", self.stage, *self.args]
        args += [f"{name}={value}" for name, value in self.values.items()]
        args += [f"paths.runs={self.suite.runs}"] if str(self.suite.runs) != "runs" else []
        run = self.run if self.state != "missing_file" else None
        for name, paths in run.inputs.items() if run is not None else ():
            args += [f"inputs.{name}=[{','.join(map(str, paths))}]"] if paths else []
        return shlex.join(args)

    @property
    def num_forward_passes(self) -> int:
        """The cost of this run in forward passes of one image; a backward pass counts as two.

        A finished training or search has recorded what it took; before that it is estimated.
        """
        settings = self.settings
        recorded = self.path / "cost.json" if self.state == "done" else None
        if recorded is not None and recorded.exists():
            return read_json(recorded, Cost)["num_forward_passes"]
        return settings.num_forward_passes(len(self.inputs.get("experts", [])))

    @property
    def title(self) -> str:
        """Row, stage and seeds."""
        values = {"expert": self.expert, "seed": self.seed, "sample seed": self.sample_seed}
        texts = [f"{name} {value}" for name, value in values.items() if value is not None]
        return ", ".join([f"{self.row} {self.stage}", *texts])

    @property
    def order(self) -> int:
        """When its turn comes: a run comes after its inputs."""
        if self.row == self.suite.settings.pretrained_by:
            return ORDER.index("pretraining")
        from_search = self.stage == "train" and self.inputs
        return ORDER.index("training from a search" if from_search else self.stage)

    @cached_property
    def ancestors(self) -> list["Node"]:
        """Everything that goes into this run, each once, inputs first."""
        parents = [node for nodes in self.inputs.values() for node in nodes]
        parents += [self.base] if self.base is not None else []
        found = [node for parent in parents for node in (*parent.ancestors, parent)]
        return list(dict.fromkeys(found))
