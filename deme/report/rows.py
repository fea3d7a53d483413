"""From the runs of a suite to the rows of its table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deme.report.records import task_weight_curves
from deme.report.statistics import Difference, RunSeeds, paired_difference, resampled_units
from deme.runs import (
    Node,
    Replicates,
    RowSettings,
    Suite,
    SuiteSettings,
    read_metrics,
    row_and_base,
    row_at_base,
    sample_grid,
)
from deme.system import BadConfig, JsonObject, read_json

Results = Mapping[RunSeeds, JsonObject]
Place = tuple[str, str | None]  # row and base


@dataclass(frozen=True)
class Number:
    """A metric of a row: mean and standard deviation over its evaluations.

    `difference` is the paired difference to the baseline.
    """

    mean: float
    std: float | None
    num_values: int
    about: JsonObject
    difference: Difference | None


@dataclass(frozen=True)
class Row:
    """A row of the table, or of the part of it that is about one base.

    While nothing is measured, `numbers` is empty, and `missing` holds the commands.
    """

    name: str
    label: str
    numbers: Mapping[str, Number]
    missing: tuple[str, ...]
    num_forward_passes: int  # of one image, per finetuning seed, without the evaluations
    grid: Path | None
    expected: Mapping[str, float] = field(default_factory=dict)  # published values, by metric
    balanced: tuple[Path, ...] = ()  # its finished training runs that weighed tasks
    base: str | None = None  # its name, in a suite of several


def _place(row: RowSettings, base: str | None) -> Place:
    """Return where the results of a row are that may have to do with no base."""
    return row.name, None if row.bases == () else base


def _row(
    suite: Suite,
    row: RowSettings,
    base: str | None,
    results: Mapping[Place, Results],
    metrics: Sequence[str],
) -> Row:
    name, place, settings = row.name, _place(row, base), suite.settings
    evaluations, found = suite.evaluations(*place), results[place]
    (baseline,) = (row for row in settings.rows if row.name == settings.baseline)
    before = results[_place(baseline, base)] if name != settings.baseline else {}
    numbers = {metric: _number(metric, found, before) for metric in metrics}
    pictures = [sample_grid(one["path"]) for one in found.values()]
    trained = [
        node
        for node in suite.nodes
        if node.stage == "train" and (node.row, node.base_name) == place
    ]
    return Row(
        name,
        row.label,
        {metric: number for metric, number in numbers.items() if number is not None},
        tuple(_first_missing(node).command for node in evaluations if node.state != "done"),
        _compute(evaluations),
        next((picture for picture in pictures if picture.exists()), None),
        suite.expected.get(row_at_base(name, base), suite.expected.get(name, {})),
        tuple(path for node in trained if (path := _finished(node)) and task_weight_curves(path)),
        base,
    )


def _finished(node: Node) -> Path | None:
    """Return the directory of a run that is done."""
    return node.run.path if node.state == "done" and node.run is not None else None


@dataclass(frozen=True)
class Comparison:
    """The paired difference of one row to another, per metric.

    `base`: what the base of both is called, in a suite of several; of two, the labels name them.
    """

    label: str
    other: str
    differences: Mapping[str, Difference | None]
    base: str = ""


class SuiteResults:
    """The finished evaluations of a suite, which are read once: its rows and their differences."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._found = _results(suite)
        self._rows = {row.name: row for row in suite.settings.rows}

    def rows(self) -> list[Row]:
        """Return the rows that are evaluated, in the suite's order, for each base."""
        metrics = _metrics(self.suite, self._found)
        return [
            _row(self.suite, row, base, self._found, metrics)
            for base, rows in self.suite.sections
            for row in rows
        ]

    def comparisons(self) -> list[Comparison]:
        """Return the suite's comparisons of row against row, for each base that both rows have."""
        settings = self.suite.settings
        found = []
        for pair in settings.comparisons:
            (name, base), (other_name, other_base) = map(row_and_base, pair)
            row, other = self._rows[name], self._rows[other_name]
            named = (base, other_base) != (None, None)
            shared = [(one, one) for one in settings.shared_bases(row, other)]
            for one_base, two_base in [(base, other_base)] if named else shared:
                one, two = self._of(name, one_base), self._of(other_name, two_base)
                differences = {metric: _between(metric, one, two) for metric in settings.metrics}
                labels = _labels(settings, (row, one_base), (other, two_base))
                found.append(Comparison(*labels[:2], differences, labels[2]))
        return found

    def differences(
        self, pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
    ) -> list[dict[str, Difference | None]]:
        """Return the paired difference of the first row of each pair to the second, per metric.

        Rows are named <row>, or <row>@<base> in a suite of several bases. None where one of them is
        not measured.
        """
        return [
            {
                metric: _between(metric, self._of(*row_and_base(name)), self._of(*row_and_base(to)))
                for metric in metrics
            }
            for name, to in pairs
        ]

    def _of(self, name: str, base: str | None) -> Results:
        return self._found.get(_place(self._rows[name], base), {})


def _labels(settings: SuiteSettings, *pair: tuple[RowSettings, str | None]) -> tuple[str, str, str]:
    """Return the labels of two rows, and what the base of both is called."""
    (one, base), (two, other) = pair
    if base == other:
        return one.label, two.label, "" if base is None else settings.label_of(base)
    texts = [f" ({settings.label_of(name)})" if name is not None else "" for _, name in pair]
    return one.label + texts[0], two.label + texts[1], ""


def _between(metric: str, one: Results, two: Results) -> Difference | None:
    """Return one minus the other."""
    number = _number(metric, one, two)
    return None if number is None else number.difference


def _results(suite: Suite) -> dict[Place, Results]:
    """Return metrics, replicates and directory of every finished evaluation, row by row."""
    found: dict[Place, Results] = {}
    for base, rows in suite.sections:
        for place in (_place(row, base) for row in rows):
            if place not in found:
                found[place] = {
                    RunSeeds(node.seed, node.sample_seed or 0, node.pretrain_seed): {
                        "metrics": read_metrics(path),
                        "replicates": read_json(path / "replicates.json", Replicates),
                        "path": path,
                    }
                    for node in suite.evaluations(*place)
                    if (path := _finished(node)) is not None
                }
    return found


def _metrics(suite: Suite, results: Mapping[Place, Results]) -> list[str]:
    wanted = list(suite.settings.metrics)
    found = {
        metric for row in results.values() for one in row.values() for metric in one["metrics"]
    }
    return wanted + sorted(
        metric for metric in found if "/" in metric and metric.split("/")[0] in wanted
    )


def _number(metric: str, results: Results, base: Results) -> Number | None:
    if metric.partition("/")[0] == "loss":  # on fixed triples: sampling seeds do not change it
        results = {cell: results[cell] for cell in results if cell[1] == min(c[1] for c in results)}
    values = values_of(metric, results)
    if not values:
        return None
    about = next(one["metrics"][metric] for one in results.values() if metric in one["metrics"])
    others = {
        cell: one
        for cell, one in base.items()
        if metric in one["metrics"]
        and metric in one["replicates"]
        and is_same_metric(about, one["metrics"][metric])
    }
    difference = difference_of(metric, {cell: results[cell] for cell in values}, others)
    std = about.get("std") if len(values) == 1 else float(np.std(list(values.values()), ddof=1))
    return Number(
        float(np.mean(list(values.values()))),
        std,
        len(values),
        about,
        difference,
    )


def is_same_metric(one: JsonObject, other: JsonObject) -> bool:
    """Whether two values of a metric have the same reference and the same features.

    The features of `fd_own` depend on the training images: two data sets give different metrics.
    """
    return all(one[key] == other[key] for key in ("reference", "implementation"))


def difference_of(metric: str, results: Results, base: Results) -> Difference | None:
    """Return the paired difference of a metric; None where no bootstrap replicates are stored.

    Raises BadConfig for runs with different numbers of replicates.
    """
    every = [*results.values(), *base.values()]
    if any(
        metric not in one["replicates"] or "std" in one["metrics"].get(metric, {"std": None})
        for one in every
    ):
        return None
    counts = sorted({len(one["replicates"][metric]) for one in every})
    if len(counts) > 1:
        raise BadConfig(
            f"{metric} has {' and '.join(map(str, counts))} bootstrap replicates: evaluate with "
            "the same metrics.replicates"
        )
    about = every[0]["metrics"][metric]
    difference = paired_difference(
        values_of(metric, results),
        values_of(metric, base),
        {cell: one["replicates"][metric] for cell, one in results.items()},
        {cell: one["replicates"][metric] for cell, one in base.items()},
        resampled_units(about),
    )
    return difference and difference.of(about)


def values_of(metric: str, results: Results) -> dict[RunSeeds, float]:
    """Return the values of a metric of the evaluations that have it."""
    return {
        cell: one["metrics"][metric]["value"]
        for cell, one in results.items()
        if metric in one["metrics"]
    }


def _first_missing(node: Node) -> Node:
    return next((other for other in node.ancestors if other.state != "done"), node)


def _compute(evaluations: list[Node]) -> int:
    """Return what finetuning took, without pretraining, which all rows share."""
    nodes = evaluations[0].ancestors if evaluations else []
    return sum(node.num_forward_passes for node in nodes if not node.pretrains)
