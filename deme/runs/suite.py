"""A table as data: each row of a suite is a chain of stages, which resolve to run directories.

No torch here: what is done, ready or stale is known in a second (docs/suites.md, docs/runs.md).
"""

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from deme.runs.inputs import read_status
from deme.runs.node import BLOCKED, Node
from deme.runs.settings import CHAIN, Config, PublishedNumbers, RowSettings, SuiteSettings
from deme.runs.suite_file import in_order, read_suite
from deme.system import PACKAGE, BadConfig, DemeError, locate_suite, read_json

__all__ = ["Node", "Suite"]


@dataclass(frozen=True)
class Suite:
    """The rows of a table, in order, and the runs they need."""

    file: Path
    runs: Path
    settings: SuiteSettings = field(repr=False)
    paths: tuple[str, ...] = ()  # overrides of the `paths` group, for every run
    own_results: Path | None = None  # the user's own folder of the table
    # stage -> keys whose values replace those of its configuration
    replaced: Mapping[str, Config] = field(default_factory=dict, repr=False)

    @classmethod
    def read(
        cls,
        place: Path,
        runs: Path = Path("runs"),
        paths: Sequence[str] = (),
        results: Path | None = None,
    ) -> "Suite":
        """Read a folder with a suite.yaml, or a suite file. Raises MissingInput, BadConfig."""
        file, settings = read_suite(locate_suite(place))
        return cls(file, runs, settings, tuple(paths), results)

    @property
    def name(self) -> str:
        """The suite's name, a folder below the runs."""
        return self.settings.suite

    @property
    def title(self) -> str:
        """The heading of the table."""
        return self.settings.title or self.name

    @cached_property
    def expected(self) -> Mapping[str, Mapping[str, float]]:
        """The published numbers, row -> metric -> value; empty without an `expected` file."""
        if self.settings.expected is None:
            return {}
        return read_json(self.file.parent / self.settings.expected, PublishedNumbers)["rows"]

    @property
    def measured_rows(self) -> list[RowSettings]:
        """The rows of the table, in its order: those that are evaluated."""
        return [row for row in self.settings.rows if row.evaluate is not None]

    @cached_property
    def sample_seeds(self) -> set[int]:
        """The seeds that any row is evaluated with."""
        return {seed for row in self.settings.rows for seed in self.seeds_of(row)}

    def seeds_of(self, row: RowSettings) -> tuple[int, ...]:
        """Return the sampling seeds of a row."""
        return self.settings.sample_seeds if row.sample_seeds is None else row.sample_seeds

    @property
    def results(self) -> Path:
        """The folder of the table and its figures."""
        if self.own_results is not None:
            return self.own_results
        if self.settings.results is not None:
            return Path(self.settings.results)
        own = not self.file.is_relative_to(PACKAGE)
        return (self.file.parent if own else self.runs / self.name) / "results"

    @cached_property
    def nodes(self) -> list[Node]:
        """All runs, inputs before what needs them."""
        return sorted(_Chains(self).layout(), key=lambda node: node.order)

    def sharing(self) -> list["Suite"]:
        """Return the suites that `runs_shared_with` names. Raises BadConfig."""
        places = [self.file.parent / place for place in self.settings.runs_shared_with]
        found = [Suite.read(place, self.runs, self.paths) for place in places]
        if strange := [str(suite.file) for suite in found if suite.name != self.name]:
            raise BadConfig(
                f"{self.file}: runs_shared_with names {', '.join(strange)}, of another suite\n"
                f"runs are shared by suite files with the same name: suite: {self.name}"
            )
        return found

    def evaluations(self, row: str) -> list[Node]:
        """Return a row's evaluate nodes."""
        return [node for node in self.nodes if node.row == row and node.stage == "evaluate"]

    def stale(self) -> list[Path]:
        """Return finished runs of this suite that no node resolves to.

        Runs of the suites that share its runs are not stale. Of a stage with a run that waits for
        others it is not known yet which runs are.
        """
        nodes = [node for suite in (self, *self.sharing()) for node in suite.nodes]
        wanted = {node.run.path for node in nodes if node.state not in BLOCKED and node.run}
        unknown = {node.stage for node in nodes if node.state == "waiting"}
        folders = [self.runs / self.name / stage for stage in CHAIN if stage not in unknown]
        started = [p.parent for folder in folders for p in sorted(folder.glob("*/status.json"))]
        return [path for path in started if path not in wanted and _is_done(path)]


def _is_done(path: Path) -> bool:
    """Whether a run is finished; one whose status cannot be read is not."""
    with contextlib.suppress(DemeError):
        return read_status(path).get("state") == "done"
    return False


class _Chains:
    """Lays out the runs of every row, which take the runs of other rows as inputs."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.nodes: list[Node] = []
        self.made: dict[tuple[str, str, int | None], list[Node]] = defaultdict(list)

    def layout(self) -> list[Node]:
        """Return all runs, row by row; a row that trains nothing is laid out once."""
        settings = self.suite.settings
        rows = in_order(settings.rows)
        for row in sorted(rows, key=lambda row: row.name != settings.pretrained_by):
            trains = row.train is not None or row.experts_of is not None
            once = row.name == settings.pretrained_by or not trains
            for seed in (None,) if once else settings.finetune_seeds:
                self.chain(row, seed)
        return self.nodes

    def chain(self, row: RowSettings, seed: int | None) -> None:
        """Add the runs of a row for one finetuning seed."""
        cell = f"cell.method={row.name}"
        if row.train is not None:
            found = {"search": self.made[row.search_of, "search", seed]} if row.search_of else {}
            for expert in row.experts or (None,):
                self.add(row, "train", seed, found, expert=expert)
        experts = self.made[row.experts_of or row.name, "train", seed]
        if row.search is not None:
            self.add(row, "search", seed, {"experts": experts}, cell)
        searched = self.made[row.name, "search", seed]
        if row.merge is not None:
            inputs = {"experts": experts, "search": searched} if searched else {"experts": experts}
            self.add(row, "merge", seed, inputs, cell)
        weights = self.made[row.name, "merge", seed] or experts
        routed = ["source=experts"] if row.experts else []
        source = {"experts": experts} if row.experts else {"weights": weights} if weights else {}
        for sample_seed in self.suite.seeds_of(row) if row.evaluate is not None else ():
            self.add(row, "evaluate", seed, source, cell, *routed, sample_seed=sample_seed)

    def add(
        self,
        row: RowSettings,
        stage: str,
        seed: int | None,
        inputs: dict[str, list[Node]],
        *more: str,
        expert: int | None = None,
        sample_seed: int | None = None,
    ) -> None:
        """Add one run: common overrides, then the row's, then what the suite adds."""
        suite, pretrained_by = self.suite, self.suite.settings.pretrained_by
        common: tuple[str, ...] = getattr(suite.settings.common, stage)
        overrides = [*common, *(row.overrides(stage) or ()), *more, f"suite={suite.name}"]
        overrides += suite.paths
        base = None
        if pretrained_by is not None and pretrained_by != row.name:
            (base,) = self.made[pretrained_by, "train", None]
            overrides.append("model=diffusers")
        node = Node(suite, row.name, stage, seed, sample_seed, expert, inputs, overrides, base)
        self.nodes.append(node)
        self.made[row.name, stage, seed].append(node)
