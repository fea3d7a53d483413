"""Metrics in parts: the loss in each range of timesteps, a score of prompts in each of their categories and phrases."""

from collections.abc import Sequence
from dataclasses import dataclass

from deme.report.numbers import digits_for
from deme.report.rows import Number, Row


@dataclass(frozen=True)
class PartTable:
    """A line per row, a column per part of a metric."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def part_tables(rows: Sequence[Row]) -> list[PartTable]:
    """Return a table for each metric that has parts, in the order in which they were measured."""
    names = dict.fromkeys(name for row in rows for name in row.numbers if "/" in name)
    return [
        _table(rows, metric, [name for name in names if name.partition("/")[0] == metric])
        for metric in dict.fromkeys(name.partition("/")[0] for name in names)
    ]


def _table(rows: Sequence[Row], metric: str, names: list[str]) -> PartTable:
    about = {
        name: next(row.numbers[name].about for row in rows if name in row.numbers) for name in names
    }
    if metric == "loss":
        title, columns = (
            "Loss per range of timesteps",
            [f"t in {about[name].get('range', name)}" for name in names],
        )
    else:
        title = f"{metric} by kind of prompt"
        columns = [f"{name.partition('/')[2]} (n = {about[name]['n']:,})" for name in names]
    lines = []
    for row in rows:
        texts = [_cell(row.numbers[name]) if name in row.numbers else "--" for name in names]
        if any(text != "--" for text in texts):
            lines.append([row.label, *texts])
    return PartTable(title, ["row", *columns], lines)


def _cell(number: Number) -> str:
    change = ""
    if number.difference and number.mean != number.difference.value:
        share = number.difference.value / (number.mean - number.difference.value)
        change = f" ({share:+.2%}, {number.difference.verdict})"
    return f"{number.mean:.{digits_for(number.mean)}f}{change}"
