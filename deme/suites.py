"""A table as data: a suite file lists rows; each row is a chain of stages, which resolve to run directories (DESIGN 7).

No torch here: what is done, missing or stale is known in a second.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from deme.config import compose_stage, make
from deme.errors import BadConfig, MissingInput, did_you_mean
from deme.files import read_json
from deme.inputs import read_status
from deme.runs import Run

CHAIN = ("train", "search", "merge", "evaluate")
SUITE_KEYS = {
    "suite",
    "title",
    "rows",
    "results",
    "finetune_seeds",
    "sample_seeds",
    "common",
    "baseline",
    "metrics",
    "notes",
    "plan",
}
ROW_KEYS = {"name", "label", "train", "experts", "experts_of", "search", "merge", "evaluate", "sample_seeds"}


@dataclass
class Node:
    """One run that the table needs: a stage of a row, for one finetuning seed, sampling seed and expert."""

    suite: "Suite" = field(repr=False)
    row: str
    stage: str
    seed: int | None
    sample_seed: int | None = None
    expert: int | None = None
    inputs: dict[str, "list[Node]"] = field(default_factory=dict, repr=False)
    overrides: list[str] = field(default_factory=list, repr=False)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, its inputs still open."""
        config = compose_stage(self.stage, self.overrides, **self.settings)
        if self.stage == "search" and config["sample_seed"] in self.suite.spec["sample_seeds"]:
            raise BadConfig(
                f"{self.suite.file}: row {self.row} searches with sample_seed {config['sample_seed']}, which the table "
                "reports\nchoose a sample_seed for the search that is not among sample_seeds"
            )
        return {**config, "inputs": dict.fromkeys(config["inputs"]), "paths": {"runs": str(self.suite.runs)}}

    @property
    def settings(self) -> dict[str, int]:
        """The seeds and the expert, as configuration values."""
        given = {"seed": self.seed, "expert": self.expert, "sample_seed": self.sample_seed}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def run(self) -> Run | None:
        """The run directory, or None while an input is not finished (its content is part of the id)."""
        if self._run is None:
            inputs = dict(self.config["inputs"])
            for name, nodes in self.inputs.items():
                runs = [node.run for node in nodes if node.state == "done"]
                if len(runs) < len(nodes):
                    return None
                inputs[name] = [str(run.path) for run in runs if run is not None]
            self._run = Run.planned({**self.config, "inputs": inputs})
        return self._run

    @property
    def state(self) -> str:
        """done, running, preempted, failed, missing, or waiting (for an input)."""
        if self._done:
            return "done"
        run = self.run
        if run is None:
            return "waiting"
        state = "done" if run.done else str(run.status.get("state", "missing"))
        self._done = state == "done"
        return state

    _run: Run | None = field(default=None, repr=False)
    _done: bool = field(default=False, repr=False)

    @property
    def command(self) -> str:
        """The command that makes this run by hand."""
        words = ["deme", self.stage, *self.overrides, *(f"{name}={value}" for name, value in self.settings.items())]
        words += [f"paths.runs={self.suite.runs}"] if str(self.suite.runs) != "runs" else []
        run = self.run
        if run is not None:
            words += [f"inputs.{name}=[{','.join(map(str, paths))}]" for name, paths in run.inputs.items() if paths]
        return " ".join(shlex.quote(word) for word in words)

    @property
    def forwards(self) -> int:
        """The cost of this run in forward passes of one image (a backward pass counts as two)."""
        config = self.config
        if self.stage == "train":
            teacher = config["method"].get("consistency_weight", 0) > 0
            return config["num_steps"] * config["accumulate"] * config["batch_size"] * (4 if teacher else 3)
        steps = config.get("sampler", {}).get("num_inference_steps", 0) * config.get("num_images", 0)
        if self.stage == "search":
            return int(steps * make(config["search"]).count(len(self.inputs["experts"])))
        if self.stage == "merge" or config["source"] == "real" or not config["metrics"]["features"]:
            return 0  # no images are generated
        return int(steps)

    @property
    def title(self) -> str:
        """Row, stage and seeds in words."""
        parts = [("expert", self.expert), ("seed", self.seed), ("sample seed", self.sample_seed)]
        return ", ".join(
            [f"{self.row} {self.stage}", *(f"{name} {value}" for name, value in parts if value is not None)]
        )


@dataclass(frozen=True)
class Suite:
    """The rows of a table, in order, and the runs they need."""

    file: Path
    runs: Path
    spec: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, place: Path, runs: Path = Path("runs")) -> "Suite":
        """Read experiments/<table> (its suite.yaml) or a suite file. Raises MissingInput, BadConfig."""
        file = place / "suite.yaml" if place.is_dir() else place
        if not file.is_file():
            raise MissingInput(
                f"{file} does not exist\na suite is a folder with a suite.yaml, such as experiments/digits, or such a file"
            )
        try:
            spec = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise BadConfig(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(spec, dict):
            raise BadConfig(f"{file} must hold a mapping with the keys {', '.join(sorted(SUITE_KEYS))}")
        _check_keys(
            spec, SUITE_KEYS, {"suite", "rows", "sample_seeds", "finetune_seeds", "baseline", "metrics"}, str(file)
        )
        if not isinstance(spec["rows"], list) or not spec["rows"]:
            raise BadConfig(f"{file} has no rows")
        for row in spec["rows"]:
            _check_keys(row, ROW_KEYS, {"name", "label"}, f"a row of {file}")
        _check_rows(spec, file)
        names = [row["name"] for row in spec["rows"]]
        if spec["baseline"] not in names:
            raise BadConfig(f"baseline: {spec['baseline']} of {file} is no row; rows: {', '.join(names)}")
        for row in spec["rows"]:
            if "experts_of" in row and row["experts_of"] not in names:
                raise BadConfig(
                    f"row {row['name']} of {file}: experts_of: {row['experts_of']} is no row; rows: {', '.join(names)}"
                )
        return cls(file, runs, spec)

    @property
    def name(self) -> str:
        """The suite's name, a folder below the runs."""
        return str(self.spec["suite"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows in the table's order."""
        return list(self.spec["rows"])

    @property
    def results(self) -> Path:
        """Where the table and the pictures go."""
        return Path(self.spec["results"]) if "results" in self.spec else self.file.parent / "results"

    @cached_property
    def nodes(self) -> list[Node]:
        """All runs, inputs before what needs them."""
        experts: dict[tuple[str, int], list[Node]] = {}
        nodes: list[Node] = []
        rows = sorted(self.rows, key=lambda row: "experts_of" in row)
        for row in rows:
            for seed in self.spec["finetune_seeds"] if CHAIN[0] in row or "experts_of" in row else [None]:
                nodes += self._chain(row, seed, experts)
        return sorted(nodes, key=lambda node: CHAIN.index(node.stage))

    def _chain(
        self, row: dict[str, Any], seed: int | None, experts: dict[tuple[str, int], list[Node]]
    ) -> Iterator[Node]:
        def node(stage: str, inputs: dict[str, list[Node]], *more: str, **where: Any) -> Node:
            common = self.spec.get("common", {}).get(stage, [])
            overrides = [*common, *row.get(stage, []), *more, f"suite={self.name}"]
            return Node(self, row["name"], stage, seed, inputs=inputs, overrides=overrides, **where)

        trained: list[Node] = []
        if "train" in row:
            trained = [node("train", {}, expert=expert) for expert in row.get("experts", [None])]
            yield from trained
        if "experts_of" in row and seed is not None:
            trained = experts[row["experts_of"], seed]
        elif seed is not None:
            experts[row["name"], seed] = trained
        cell = f"cell.method={row['name']}"
        inputs = {"experts": trained}
        if "search" in row:
            inputs["search"] = [node("search", {"experts": trained}, cell)]
            yield inputs["search"][0]
        weights = trained
        if "merge" in row:
            weights = [node("merge", inputs, cell)]
            yield weights[0]
        if "evaluate" not in row:
            return
        source = {"experts": trained} if "experts" in row else {"weights": weights} if weights else {}
        routed = ["source=experts"] if "experts" in row else []
        for sample_seed in row.get("sample_seeds", self.spec["sample_seeds"]):
            yield node("evaluate", source, cell, *routed, sample_seed=sample_seed)

    def evaluations(self, row: str) -> list[Node]:
        """Return a row's evaluate nodes."""
        return [node for node in self.nodes if node.row == row and node.stage == "evaluate"]

    def ancestors(self, node: Node) -> list[Node]:
        """Return everything that goes into a node, each once, not the node itself."""
        found: list[Node] = []
        for parents in node.inputs.values():
            for parent in parents:
                found += [n for n in (*self.ancestors(parent), parent) if all(n is not other for other in found)]
        return found

    def stale(self) -> list[Path]:
        """Return finished runs of this suite that no node resolves to: made by an older config."""
        wanted = {run.path for node in self.nodes if (run := node.run) is not None}
        folders = [self.runs / self.name / stage for stage in CHAIN]
        finished = [p.parent for folder in folders for p in sorted(folder.glob("*/status.json"))]
        return [path for path in finished if path not in wanted and read_status(path).get("state") == "done"]


def result(node: Node) -> dict[str, Any] | None:
    """Return metrics.json and replicates.json of a finished evaluation, else None."""
    run = node.run if node.state == "done" else None
    if run is None:
        return None
    return {
        **read_json(run.path / "metrics.json"),
        "replicates": read_json(run.path / "replicates.json"),
        "path": run.path,
    }


def _check_rows(spec: dict[str, Any], file: Path) -> None:
    rows = {row["name"]: row for row in spec["rows"]}
    if len(rows) < len(spec["rows"]):
        raise BadConfig(f"two rows of {file} have the same name")
    stages = [(f"common.{stage}", spec.get("common", {}).get(stage, [])) for stage in CHAIN]
    stages += [(f"row {name}: {stage}", row.get(stage, [])) for name, row in rows.items() for stage in CHAIN]
    for where, words in stages:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise BadConfig(
                f"{file}, {where} must be a list of overrides, such as [num_steps=100] or [], got {words!r}"
            )
    for name, row in rows.items():
        if row.get("experts_of") in rows and "train" not in rows[row["experts_of"]]:
            raise BadConfig(f"{file}, row {name}: experts_of must name a row that trains; {row['experts_of']} does not")
    if "evaluate" not in rows.get(spec["baseline"], {"evaluate": []}):
        raise BadConfig(f"{file}: the baseline {spec['baseline']} needs an evaluate stage")


def _check_keys(given: Any, allowed: set[str], needed: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise BadConfig(f"{where} must be a mapping, got {given!r}")
    for key in given:
        if key not in allowed:
            raise BadConfig(
                f"unknown key {key!r} in {where}; {did_you_mean(key, allowed)}allowed: {', '.join(sorted(allowed))}"
            )
    if needed - given.keys():
        raise BadConfig(f"{where} lacks {', '.join(sorted(needed - given.keys()))}")
