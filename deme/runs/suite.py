"""A table as data: a suite file lists rows; each row is a chain of stages, which resolve to run directories (DESIGN 7).

No torch here: what is done, missing or stale is known in a second.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from deme.runs.config import compose_stage, extractor_specs, instantiate, score_specs
from deme.system.errors import BadConfig, MissingInput
from deme.system.files import read_json
from deme.runs.inputs import read_status, weights_folder
from deme.runs.run import Run
from deme.runs.suite_file import CHAIN, in_order, read_spec


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
    base: "Node | None" = field(default=None, repr=False)  # the training run whose model this one starts from
    missing_file: MissingInput | None = field(default=None, repr=False)  # what the user has to bring, if it is not there

    @property
    def words(self) -> list[str]:
        """The overrides, the base among them once it is trained."""
        run = self.base.run if self.base is not None and self.base.state == "done" else None
        return [*self.overrides, *([f"model.path={weights_folder(run.path)}"] if run else [])]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, its inputs still open; and its base, until that is trained."""
        words = tuple(self.words)
        if words not in self._configs:
            self._configs[words] = self._composed(words)
        return self._configs[words]

    def _composed(self, words: tuple[str, ...]) -> dict[str, Any]:
        waiting = ["model.path=asset:"] if self.base is not None and self.base.state != "done" else []
        config = compose_stage(self.stage, [*words, *waiting], **self.settings)
        if self.stage == "search" and config["sample_seed"] in self.suite.sample_seeds:
            raise BadConfig(
                f"{self.suite.file}: row {self.row} searches with sample_seed {config['sample_seed']}, which the table "
                "reports\nchoose a sample_seed for the search that is not among sample_seeds"
            )
        return {
            **config,
            "inputs": dict.fromkeys(config["inputs"]),
            "paths": {**config["paths"], "runs": str(self.suite.runs)},
        }

    @property
    def settings(self) -> dict[str, int]:
        """The seeds and the expert, as configuration values."""
        given = {"seed": self.seed, "expert": self.expert, "sample_seed": self.sample_seed}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def run(self) -> Run | None:
        """The run directory, or None while an input is not finished (its content is part of the id)."""
        if self._run is None:
            if self.base is not None and self.base.state != "done":
                return None
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
        """done, running, preempted, failed, missing, waiting (for another run), or lacking (a file of the user's)."""
        if self._done:
            return "done"
        try:
            run = self.run
        except MissingInput as error:
            self.missing_file = error
            return "lacking"
        self.missing_file = None
        if run is None:
            return "waiting"
        state = "done" if run.done else str(run.status.get("state", "missing"))
        self._done = state == "done"
        return state

    _configs: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict, repr=False)
    _run: Run | None = field(default=None, repr=False)
    _done: bool = field(default=False, repr=False)

    @property
    def command(self) -> str:
        """The command that makes this run by hand."""
        words = ["deme", self.stage, *self.words, *(f"{name}={value}" for name, value in self.settings.items())]
        words += [f"paths.runs={self.suite.runs}"] if str(self.suite.runs) != "runs" else []
        run = self.run if self.state != "lacking" else None
        if run is not None:
            words += [f"inputs.{name}=[{','.join(map(str, paths))}]" for name, paths in run.inputs.items() if paths]
        return " ".join(shlex.quote(word) for word in words)

    @property
    def num_forward_passes(self) -> int:
        """The cost of this run in forward passes of one image (a backward pass counts as two).

        A finished training run or search says itself what it took; before that it is estimated.
        """
        config = self.config
        told = self.run.path / "cost.json" if self.state == "done" and self.run else None
        if told is not None and told.exists():
            return int(read_json(told)["num_forward_passes"])
        if self.stage == "train":
            teacher = config["method"].get("consistency_weight", 0) > 0
            ranges = config["ranges"]  # measured by gradients, or not
            affinity = 3 * ranges.get("num_bins", 0) * ranges.get("num_images", 0)
            return config["num_steps"] * config["accumulate"] * config["batch_size"] * (4 if teacher else 3) + affinity
        steps = _passes_per_image(config) * config.get("num_images", 0)
        if self.stage == "search":
            images = config["objective"] in (None, "frechet", "kid") and bool(extractor_specs(config["metrics"]))
            passes = steps if images else config["num_images"] * config["metrics"]["loss"]["num_ranges"]
            passes *= 3 if config["search"]["_target_"].endswith(".GradientSearch") else 1
            return int(passes * (instantiate(config["search"]).count(len(self.inputs["experts"])) or 0))
        if self.stage == "merge" or config["source"] in ("real", "images"):
            return 0
        if not extractor_specs(config["metrics"]) and not score_specs(config["metrics"]):
            return 0  # no images are generated
        return int(steps)

    @property
    def title(self) -> str:
        """Row, stage and seeds in words."""
        parts = [("expert", self.expert), ("seed", self.seed), ("sample seed", self.sample_seed)]
        return ", ".join(
            [f"{self.row} {self.stage}", *(f"{name} {value}" for name, value in parts if value is not None)]
        )


def _passes_per_image(config: Mapping[str, Any]) -> int:
    """What one generated image takes: guidance asks the network twice, and PNDM takes its second step twice."""
    sampler = config.get("sampler", {})
    calls = int(sampler.get("num_inference_steps", 0)) + str(sampler.get("_target_")).endswith(".PNDM")
    guided = config.get("prompts") and config.get("guidance_scale") not in (None, 1)
    return calls * (2 if guided else 1)


@dataclass(frozen=True)
class Suite:
    """The rows of a table, in order, and the runs they need."""

    file: Path
    runs: Path
    spec: Mapping[str, Any] = field(repr=False)
    places: tuple[str, ...] = ()  # overrides of the `paths` group, for every run

    @classmethod
    def read(cls, place: Path, runs: Path = Path("runs"), places: Sequence[str] = ()) -> "Suite":
        """Read experiments/<table> (its suite.yaml) or a suite file. Raises MissingInput, BadConfig."""
        file, spec = read_spec(place)
        return cls(file, runs, spec, tuple(places))

    @cached_property
    def expected(self) -> dict[str, dict[str, float]]:
        """The published numbers, row -> metric -> value; empty without an `expected` file."""
        if "expected" not in self.spec:
            return {}
        rows: dict[str, dict[str, float]] = read_json(self.file.parent / self.spec["expected"])["rows"]
        return rows

    @property
    def name(self) -> str:
        """The suite's name, a folder below the runs."""
        return str(self.spec["suite"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows in the table's order."""
        return list(self.spec["rows"])

    @property
    def sample_seeds(self) -> set[int]:
        """The seeds that any row is evaluated with."""
        return {seed for row in self.rows for seed in row.get("sample_seeds", self.spec["sample_seeds"])}

    @property
    def results(self) -> Path:
        """Where the table and the pictures go."""
        return Path(self.spec["results"]) if "results" in self.spec else self.file.parent / "results"

    @cached_property
    def nodes(self) -> list[Node]:
        """All runs, inputs before what needs them."""
        experts: dict[tuple[str, int | None], list[Node]] = {}
        searches: dict[tuple[str, int], Node] = {}
        nodes: list[Node] = []
        for row in sorted(in_order(self.rows), key=lambda row: row["name"] != self.spec.get("base")):
            if row["name"] == self.spec.get("base"):  # trained once, whatever the finetuning seeds
                nodes += self._chain(row, None, experts, searches)
                continue
            for seed in self.spec["finetune_seeds"] if CHAIN[0] in row or "experts_of" in row else [None]:
                nodes += self._chain(row, seed, experts, searches)
        late = CHAIN.index("search") + 0.5  # training that starts from a search

        def place(node: Node) -> float:
            if node.row == self.spec.get("base"):
                return -1
            return late if node.stage == "train" and node.inputs else CHAIN.index(node.stage)

        return sorted(nodes, key=place)

    def _chain(
        self,
        row: dict[str, Any],
        seed: int | None,
        experts: dict[tuple[str, int | None], list[Node]],
        searches: dict[tuple[str, int], Node],
    ) -> Iterator[Node]:
        def node(stage: str, inputs: dict[str, list[Node]], *more: str, **where: Any) -> Node:
            common = self.spec.get("common", {}).get(stage, [])
            overrides = [*common, *row.get(stage, []), *more, f"suite={self.name}", *self.places]
            base = (
                experts[self.spec["base"], None][0]
                if "base" in self.spec and row["name"] != self.spec["base"]
                else None
            )
            if base is not None:
                overrides.append("model=diffusers")
            return Node(self, row["name"], stage, seed, inputs=inputs, overrides=overrides, base=base, **where)

        trained: list[Node] = []
        if "train" in row:
            found = {"search": [searches[row["search_of"], seed]]} if "search_of" in row and seed is not None else {}
            trained = [node("train", found, expert=expert) for expert in row.get("experts", [None])]
            yield from trained
        if "experts_of" in row and seed is not None:
            trained = experts[row["experts_of"], seed]
        else:
            experts[row["name"], seed] = trained
        cell = f"cell.method={row['name']}"
        inputs = {"experts": trained}
        if "search" in row:
            search = node("search", {"experts": trained}, cell)
            inputs["search"] = [search]
            if seed is not None:
                searches[row["name"], seed] = search
            yield search
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

    def sharing(self) -> list["Suite"]:
        """Return the suites of the same name whose runs lie among this one's: `runs_shared_with`. Raises BadConfig."""
        places = [self.file.parent / place for place in self.spec.get("runs_shared_with", [])]
        found = [Suite.read(place, self.runs, self.places) for place in places]
        if strange := [str(suite.file) for suite in found if suite.name != self.name]:
            raise BadConfig(
                f"{self.file}: runs_shared_with names {', '.join(strange)}, of another suite\n"
                f"runs are shared by suite files with the same name: suite: {self.name}"
            )
        return found

    def evaluations(self, row: str) -> list[Node]:
        """Return a row's evaluate nodes."""
        return [node for node in self.nodes if node.row == row and node.stage == "evaluate"]

    def ancestors(self, node: Node) -> list[Node]:
        """Return everything that goes into a node, each once, not the node itself."""
        found: list[Node] = []
        for parents in [*node.inputs.values(), [node.base] if node.base is not None else []]:
            for parent in parents:
                found += [n for n in (*self.ancestors(parent), parent) if all(n is not other for other in found)]
        return found

    def stale(self) -> list[Path]:
        """Return finished runs of this suite that no node resolves to, nor one of the suites that share its runs."""
        nodes = [node for suite in (self, *self.sharing()) for node in suite.nodes]
        wanted = {run.path for node in nodes if node.state != "lacking" and (run := node.run) is not None}
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
