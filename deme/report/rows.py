"""From the runs of a suite to the rows of its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deme.report.records import task_weight_curves
from deme.report.statistics import Cell, Difference, paired_difference, resampled_units
from deme.runs import Metrics, Node, Replicates, Suite
from deme.system import BadConfig, JsonObject, read_json

Results = Mapping[Cell, JsonObject]


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
    """A row of the table.

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


def table_rows(suite: Suite) -> list[Row]:
    """Return the rows that are evaluated, in the suite's order."""
    results = _results(suite)
    return [_row(suite, row.name, row.label, results) for row in suite.measured_rows]


def _row(suite: Suite, name: str, label: str, results: Mapping[str, Results]) -> Row:
    evaluations = suite.evaluations(name)
    base = results[suite.settings.baseline] if name != suite.settings.baseline else {}
    numbers = {metric: _number(metric, results[name], base) for metric in _metrics(suite, results)}
    pictures = [found["path"] / "samples" / "grid.png" for found in results[name].values()]
    trained = [node for node in suite.nodes if node.row == name and node.stage == "train"]
    return Row(
        name,
        label,
        {metric: number for metric, number in numbers.items() if number is not None},
        tuple(_first_missing(node).command for node in evaluations if node.state != "done"),
        _compute(suite, evaluations),
        next((picture for picture in pictures if picture.exists()), None),
        suite.expected.get(name, {}),
        tuple(path for node in trained if (path := _finished(node)) and task_weight_curves(path)),
    )


def _finished(node: Node) -> Path | None:
    """Return the directory of a run that is done."""
    return node.run.path if node.state == "done" and node.run is not None else None


@dataclass(frozen=True)
class Comparison:
    """The paired difference of one row to another, per metric."""

    label: str
    other: str
    differences: Mapping[str, Difference | None]


def comparisons(suite: Suite) -> list[Comparison]:
    """Return the suite's comparisons of row against row."""
    results = _results(suite)
    labels = {row.name: row.label for row in suite.settings.rows}

    def difference(metric: str, name: str, other: str) -> Difference | None:
        number = _number(metric, results[name], results[other])
        return number.difference if number else None

    return [
        Comparison(
            labels[name],
            labels[other],
            {metric: difference(metric, name, other) for metric in suite.settings.metrics},
        )
        for name, other in suite.settings.comparisons
    ]


def _results(suite: Suite) -> dict[str, Results]:
    """Return metrics, replicates and directory of every finished evaluation, row by row."""
    return {
        row.name: {
            (node.seed, node.sample_seed or 0): {
                **read_json(path / "metrics.json", Metrics),
                "replicates": read_json(path / "replicates.json", Replicates),
                "path": path,
            }
            for node in suite.evaluations(row.name)
            if (path := _finished(node)) is not None
        }
        for row in suite.measured_rows
    }


def _metrics(suite: Suite, results: Mapping[str, Results]) -> list[str]:
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
    others = {cell: one for cell, one in base.items() if metric in one["replicates"]}
    difference = difference_of(metric, {cell: results[cell] for cell in values}, others)
    std = about.get("std") if len(values) == 1 else float(np.std(list(values.values()), ddof=1))
    return Number(
        float(np.mean(list(values.values()))),
        std,
        len(values),
        about,
        difference,
    )


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


def values_of(metric: str, results: Results) -> dict[Cell, float]:
    """Return the values of a metric, of those evaluations that have it."""
    return {
        cell: one["metrics"][metric]["value"]
        for cell, one in results.items()
        if metric in one["metrics"]
    }


def _first_missing(node: Node) -> Node:
    return next((other for other in node.ancestors if other.state != "done"), node)


def _compute(suite: Suite, evaluations: list[Node]) -> int:
    """Return what finetuning took, without pretraining, which all rows share."""
    nodes = evaluations[0].ancestors if evaluations else []
    shared = suite.settings.pretrained_by
    return sum(node.num_forward_passes for node in nodes if node.row != shared)
