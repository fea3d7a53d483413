"""Metrics in parts: the loss in each range of timesteps, a score in each kind of prompt."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deme.report.rows import Number, Row
from deme.report.statistics import digits_for
from deme.system import JsonObject


class TextTable(NamedTuple):
    """Texts with a title for each column."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def part_tables(rows: Sequence[Row]) -> list[TextTable]:
    """Return a table for each metric that has parts, in the order in which they were measured.

    It has a line per row and a column per part.
    """
    names = dict.fromkeys(name for row in rows for name in row.numbers if "/" in name)
    about = {n: next(row.numbers[n].about for row in rows if n in row.numbers) for n in names}
    return [
        _table(
            rows, metric, {name: of for name, of in about.items() if name.split("/")[0] == metric}
        )
        for metric in dict.fromkeys(name.partition("/")[0] for name in about)
    ]


def _table(rows: Sequence[Row], metric: str, parts: Mapping[str, JsonObject]) -> TextTable:
    if metric == "loss":
        title = "Loss per range of timesteps"
        columns = [f"t in {about.get('range', name)}" for name, about in parts.items()]
    else:
        title = f"{metric} by kind of prompt"
        columns = [f"{name.partition('/')[2]} (n = {of['n']:,})" for name, of in parts.items()]
    lines = [[row.label, *(_cell(row.numbers.get(name)) for name in parts)] for row in rows]
    return TextTable(title, ["row", *columns], [x for x in lines if set(x[1:]) != {"--"}])


def _cell(number: Number | None) -> str:
    if number is None:
        return "--"
    change = ""
    if number.difference and number.mean != number.difference.value:
        share = number.difference.value / (number.mean - number.difference.value)
        change = f" ({share:+.2%}, {number.difference.verdict})"
    return f"{number.mean:.{digits_for(number.mean)}f}{change}"
