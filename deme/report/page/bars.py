"""Cells of the page's tables: the text, the number to sort by, and the interval as a small bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deme.report.figures import edge_of
from deme.report.rows import Comparison, Row
from deme.report.statistics import Difference
from deme.report.tables import format_verdict
from deme.report.terminal import TextTable

WIDTH = 100  # of a bar, in the units of its SVG; 0 is in the middle


@dataclass(frozen=True)
class Bar:
    """An interval and its value as positions in a bar, in percent of its width from the left."""

    low: float
    value: float
    high: float
    is_cut: bool  # the value is beyond the edge


@dataclass(frozen=True)
class PageCell:
    """A table cell; `key` is the value its column is sorted by, None sorts last."""

    text: str
    key: float | str | None = None
    verdict: str = ""  # better, worse, not resolved, or none
    note: str = ""  # behind the verdict
    bar: Bar | None = None

    @property
    def mark(self) -> str:
        """A symbol for the verdict, so that colour is not needed to read it."""
        return {"better": "\N{CHECK MARK}", "worse": "\N{MULTIPLICATION X}"}.get(self.verdict, "")


@dataclass(frozen=True)
class PageTable:
    """A table of the page: column titles and cells."""

    title: str
    columns: list[str]
    lines: list[list[PageCell]]


def with_keys(table: TextTable, keys: Sequence[Sequence[float | str | None]]) -> PageTable:
    """Return a table of texts as one of the page; `keys`: what its cells are sorted by."""
    lines = [
        [*map(PageCell, texts, of_line)] for texts, of_line in zip(table.lines, keys, strict=True)
    ]
    return PageTable(table.title, table.columns, lines)


def bar_of(difference: Difference, edge: float) -> Bar | None:
    """Return the bar of an interval in a column whose bars end at +-`edge`."""
    if not edge:
        return None
    low, value, high = (
        WIDTH / 2 * (1 + max(-1.0, min(1.0, bound / edge)))
        for bound in (difference.low, difference.value, difference.high)
    )
    return Bar(low, value, high, abs(difference.value) > edge)


def difference_cell(text: str, difference: Difference | None, edge: float) -> PageCell:
    """Return the cell of a paired difference with its text; an empty one where there is none."""
    if difference is None:
        return PageCell("")
    verdict = difference.verdict
    note = format_verdict(difference).removeprefix(verdict).strip()
    return PageCell(text, difference.value, verdict, note, bar_of(difference, edge))


def edge_for(differences: Sequence[Difference | None]) -> float:
    """Return the value at which the bars of a column end."""
    return edge_of((one.low, one.high) for one in differences if one is not None)


def results_cells(
    metrics: Sequence[str], rows: Sequence[Row], texts: TextTable, published: Mapping[str, bool]
) -> list[list[PageCell]]:
    """Return the cells of a table of results: the texts of `texts`, with sort keys and bars."""
    edges = {
        metric: edge_for([row.numbers[metric].difference for row in rows if metric in row.numbers])
        for metric in metrics
    }
    lines = []
    for row, line in zip(rows, texts.lines, strict=True):
        cells = [PageCell(line[0], line[0])]
        found = iter(line[1:])
        for metric in metrics:
            number = row.numbers.get(metric)
            if published[metric]:
                cells.append(PageCell(next(found), row.expected.get(metric)))
            cells.append(PageCell(next(found), number.mean if number else None))
            difference = number.difference if number else None
            cells.append(difference_cell(next(found), difference, edges[metric]))
            next(found)  # the verdict, which is in the cell of the difference here
        cells.append(PageCell(next(found), row.num_forward_passes))
        lines.append(cells)
    return lines


def comparison_cells(
    metrics: Sequence[str], compared: Sequence[Comparison], texts: TextTable, num_names: int
) -> list[list[PageCell]]:
    """Return the cells of the table of comparisons between rows."""
    edges = {m: edge_for([one.differences[m] for one in compared]) for m in metrics}
    lines = []
    for one, line in zip(compared, texts.lines, strict=True):
        cells = [PageCell(text, text) for text in line[:num_names]]
        for index, metric in enumerate(metrics):
            text = line[num_names + 2 * index]
            cells.append(difference_cell(text, one.differences[metric], edges[metric]))
        lines.append(cells)
    return lines
