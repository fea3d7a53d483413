"""A table as data: each row of a suite is a chain of stages, which resolve to run directories.

No torch here: what is done, ready or stale is known in a second (docs/suites.md, docs/runs.md).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from deme.runs.node import BLOCKED, Node
from deme.runs.run_files import is_done
from deme.runs.settings import CHAIN, Config, PublishedNumbers, RowSettings, SuiteSettings
from deme.runs.suite_file import read_suite
from deme.runs.suite_layout import Layout
from deme.system import PACKAGE, BadConfig, locate_suite, read_json

__all__ = ["Node", "Suite"]


@dataclass(frozen=True)
class Suite:
    """The rows of a table, in order, and the runs they need."""

    file: Path
    runs: Path
    settings: SuiteSettings = field(repr=False)
    paths: tuple[str, ...] = ()  # overrides of the `paths` group, for every run
    own_results: Path | None = None  # the user's own folder of the table
    neutral: tuple[str, ...] = ()  # overrides for every run that change no result
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

    @property
    def sections(self) -> list[tuple[str | None, list[RowSettings]]]:
        """The bases with the rows of their parts of the table; None for a suite without `bases`.

        A row that has to do with no base is in all of them.
        """
        return [
            (
                base,
                [row for row in self.measured_rows if not row.bases or base in row.bases],
            )
            for base in self.settings.starts
        ]

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
        return sorted(Layout(self).nodes(), key=lambda node: node.order)

    @property
    def places(self) -> list[str]:
        """The arguments that commands on this suite need to find its files and runs."""
        return [*([] if str(self.runs) == "runs" else [f"runs={self.runs}"]), *self.paths]

    @property
    def prepare(self) -> str | None:
        """The command that obtains the files that runs read; None if no sources are known."""
        words = ["deme", "prepare", str(self.file), *self.paths]
        return shlex.join(words) if self.settings.files else None

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

    def evaluations(self, row: str, base: str | None = None) -> list[Node]:
        """Return a row's evaluate nodes, of one base in a suite of several."""
        return self._evaluations.get((row, base), [])

    @cached_property
    def _evaluations(self) -> dict[tuple[str, str | None], list[Node]]:
        found: dict[tuple[str, str | None], list[Node]] = {}
        for node in self.nodes:
            if node.stage == "evaluate":
                found.setdefault((node.row, node.base_name), []).append(node)
        return found

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
        return [path for path in started if path not in wanted and is_done(path)]
