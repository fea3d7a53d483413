"""A suite's table as a record for trackers: rows, differences, and samples by row and seed."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from deme.report.rows import Comparison, Row, SuiteResults
from deme.report.statistics import Difference
from deme.runs import Node, Suite, row_at_base, sample_grid
from deme.tracking.read import FOLDER
from deme.tracking.record import CellValue, Record, Table, is_picture, tracker_id

STAGE = "table"
NUMBERS = (
    "row", "label", "base", "metric", "mean", "std", "values", "images", "published",
    "difference", "low", "high", "verdict",
)  # fmt: skip
DIFFERENCES = (
    "row", "compared with", "base", "metric", "difference", "low", "high", "verdict",
)  # fmt: skip
SAMPLES = ("row", "label", "base", "pretrain_seed", "seed", "sample_seed", "samples")


def table_record(suite: Suite) -> Record | None:
    """Return the record of a suite's table, None if nothing is measured yet."""
    results = SuiteResults(suite)
    rows = results.rows()
    if not any(row.numbers for row in rows):
        return None
    settings = suite.settings
    tables = {
        "rows": Table(NUMBERS, [line for row in rows for line in _numbers(row)]),
        "differences": Table(DIFFERENCES, list(_comparisons(results.comparisons()))),
        "samples_by_seed": Table(SAMPLES, list(_samples(suite))),
    }
    measured = _measured(suite)
    ended = max((node.run.status.get("time", 0.0) for node in measured if node.run), default=0.0)
    summary: dict[str, float | str] = {}
    for row in rows:
        summary |= _summary(row)
    return Record(
        id=tracker_id(suite.name, STAGE),
        name=f"{suite.name} table",
        suite=suite.name,
        stage=STAGE,
        state="done",
        home=suite.runs / suite.name / FOLDER,
        began=ended,
        ended=ended or time.time(),
        tags=(suite.name, STAGE),
        notes=suite.title,
        config={
            "suite": suite.name,
            "stage": STAGE,
            "title": suite.title,
            "baseline": settings.baseline,
            "metrics": list(settings.metrics),
            "finetune_seeds": list(settings.finetune_seeds),
            "sample_seeds": list(settings.sample_seeds),
        },
        summary=summary,
        tables={name: table for name, table in tables.items() if table.rows},
    )


def _interval(difference: Difference | None) -> tuple[CellValue, ...]:
    if difference is None:
        return (None,) * 4
    return difference.value, difference.low, difference.high, difference.verdict


def _numbers(row: Row) -> Iterator[tuple[CellValue, ...]]:
    for metric, number in row.numbers.items():
        yield (
            row.name,
            row.label,
            row.base,
            metric,
            number.mean,
            number.std,
            number.num_values,
            number.about["n"],
            row.expected.get(metric),
            *_interval(number.difference),
        )


def _comparisons(compared: Sequence[Comparison]) -> Iterator[tuple[CellValue, ...]]:
    for one in compared:
        for metric, difference in one.differences.items():
            if difference is not None:
                yield (one.label, one.other, one.base or None, metric, *_interval(difference))


def _measured(suite: Suite) -> list[Node]:
    return [node for node in suite.nodes if node.stage == "evaluate" and node.state == "done"]


def _samples(suite: Suite) -> Iterator[tuple[Any, ...]]:
    """Yield the grid of every evaluation, in the order of the table's rows."""
    labels = {row.name: row.label for row in suite.settings.rows}
    order = list(labels)
    for node in sorted(_measured(suite), key=lambda node: order.index(node.row)):
        grid = sample_grid(node.path)
        if is_picture(grid):
            seeds = (node.pretrain_seed, node.seed, node.sample_seed)
            yield (node.row, labels[node.row], node.base_name, *seeds, grid)


def _summary(row: Row) -> dict[str, float | str]:
    """Return the means of a row, and its differences to the baseline with their intervals."""
    found: dict[str, float | str] = {}
    name = row_at_base(row.name, row.base)
    for metric, number in row.numbers.items():
        found[f"table/{metric}/{name}"] = number.mean
        if (difference := number.difference) is not None:
            key = f"difference/{metric}/{name}"
            found |= {key: difference.value, f"{key}/low": difference.low}
            found[f"{key}/high"] = difference.high
    return found
