"""How the numbers of a table were computed: commands, seeds, times, versions and costs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deme.runs import Node, Suite, commit_of, provenance_of, read_best, seconds_of, weights_folder
from deme.system import exists, read_about, read_json


@dataclass(frozen=True)
class RunEntry:
    """A run of a row, and the command that repeats it."""

    stage: str
    name: str  # of its directory, or what it is while it has none
    state: str
    command: str
    seconds: float


@dataclass(frozen=True)
class RowHistory:
    """The runs of a row, in order."""

    label: str
    runs: tuple[RunEntry, ...]

    @property
    def seconds(self) -> float:
        """The total time of all runs in seconds."""
        return sum(run.seconds for run in self.runs)

    @property
    def num_done(self) -> int:
        """The number of finished runs."""
        return sum(run.state == "done" for run in self.runs)


def histories(suite: Suite) -> list[RowHistory]:
    """Return the runs of every row."""
    return [
        RowHistory(label, tuple(map(_entry, nodes))) for label, nodes in _by_row(suite, suite.nodes)
    ]


def _by_row(suite: Suite, nodes: Iterable[Node]) -> list[tuple[str, list[Node]]]:
    """Return the label of each row and base, with its nodes."""
    rows: dict[str, list[Node]] = {}
    for node in nodes:
        rows.setdefault(node.row_and_base, []).append(node)
    labels = {row.name: row.label for row in suite.settings.rows}
    return [(_label(suite, labels, found[0]), found) for found in rows.values()]


def done_by_row(suite: Suite, stage: str) -> list[tuple[str, list[Node]]]:
    """Return the label of each row and base, with its finished runs of a stage."""
    nodes = (node for node in suite.nodes if node.stage == stage and node.state == "done")
    return _by_row(suite, nodes)


def _label(suite: Suite, labels: Mapping[str, str], node: Node) -> str:
    base = "" if node.base_name is None else f" ({suite.settings.label_of(node.base_name)})"
    return labels[node.row] + base


def _entry(node: Node) -> RunEntry:
    state = node.state
    run = node.run if state not in ("waiting", "missing_file") else None
    seconds = 0.0
    if run is not None and exists(run.path):
        seconds = seconds_of(run.path)
    name = node.title if run is None else run.path.name
    return RunEntry(node.stage, name, state, node.command, seconds)


def environment(folders: Sequence[Path]) -> dict[str, str]:
    """Return versions, commits and platforms of finished runs, the most frequent first."""
    found: dict[str, Counter[str]] = {}
    for folder in folders:
        made = provenance_of(folder)
        if made is None:
            continue
        values = {
            "deme": made.get("deme", ""),
            "commit": commit_of(made),
            "Python": made.get("python", ""),
            "platform": made.get("platform", "").partition("-with-")[0],
            **made.get("versions", {}),
        }
        for name, value in values.items():
            found.setdefault(name, Counter())[value] += 1
    return {name: _values(counts) for name, counts in found.items() if any(counts)}


def _values(counts: Counter[str]) -> str:
    shown = [value for value, _ in counts.most_common() if value]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


@dataclass(frozen=True)
class MergeWeights:
    """The weights of each expert in the merges of a row, one list per run."""

    label: str
    ranges: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> list[float]:
        """The mean of each weight over the runs."""
        return [sum(each) / len(each) for each in zip(*self.weights, strict=True)]

    @property
    def spans(self) -> list[tuple[float, float]]:
        """The smallest and the largest value of each weight over the runs."""
        return [(min(each), max(each)) for each in zip(*self.weights, strict=True)]


def merge_weights(suite: Suite) -> list[MergeWeights]:
    """Return the weights of finished merges, row by row."""
    found = []
    for label, nodes in done_by_row(suite, "merge"):
        weights = [_weights_of(node.path) for node in nodes]
        known = tuple(tuple(each) for each in weights if each)
        if known and len({len(each) for each in known}) == 1:
            ranges = tuple(f"expert {index}" for index in range(len(known[0])))
            found.append(MergeWeights(label, ranges, known))
    return found


def _weights_of(run: Path) -> list[float]:
    about = read_about(weights_folder(run))
    return [float(weight) for weight in about.get("weights") or []]


@dataclass(frozen=True)
class SearchCost:
    """The cost and the results of a row's searches for merge weights; means over runs."""

    label: str
    num_runs: int
    evaluations: float
    num_forward_passes: float
    seconds: float
    score: float


def search_costs(suite: Suite) -> list[SearchCost]:
    """Return the costs of finished searches, row by row."""
    found = []
    for label, nodes in done_by_row(suite, "search"):
        costs = [read_json(node.path / "cost.json", dict[str, float]) for node in nodes]
        scores = [read_best(node.path)["score"] for node in nodes]
        count = len(nodes)
        found.append(
            SearchCost(
                label,
                count,
                sum(cost.get("evaluations", 0) for cost in costs) / count,
                sum(cost["num_forward_passes"] for cost in costs) / count,
                sum(cost.get("seconds", 0.0) for cost in costs) / count,
                sum(scores) / count,
            )
        )
    return found
