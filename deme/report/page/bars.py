"""Cells of the page's tables: a text, the number to sort by, and the interval as a small bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deme.report.figures import edge_of
from deme.report.rows import Comparison, Row
from deme.report.statistics import Difference
from deme.report.tables import TextTable, difference_cells
from deme.system import digits_for

WIDTH = 100  # of a bar, in its own units; 0 lies in the middle


@dataclass(frozen=True)
class Bar:
    """An interval from the left edge to the right edge of a bar, in percent of its width."""

    low: float
    value: float
    high: float
    is_cut: bool  # beyond the edge


@dataclass(frozen=True)
class PageCell:
    """A cell: `key` is what its column is sorted by, None sorts last."""

    text: str
    key: float | str | None = None
    verdict: str = ""  # better, worse, not resolved, or none
    note: str = ""  # behind the verdict
    bar: Bar | None = None

    @property
    def mark(self) -> str:
        """An arrow for a verdict, so that its colour is not needed."""
        return {"better": "\N{CHECK MARK}", "worse": "\N{MULTIPLICATION X}"}.get(self.verdict, "")


@dataclass(frozen=True)
class PageTable:
    """A table of the page: titles and cells."""

    title: str
    columns: list[str]
    lines: list[list[PageCell]]


def bar_of(difference: Difference, edge: float) -> Bar | None:
    """Return the bar of an interval in a column whose bars end at +-edge."""
    if not edge:
        return None
    low, value, high = (
        WIDTH / 2 * (1 + max(-1.0, min(1.0, bound / edge)))
        for bound in (difference.low, difference.value, difference.high)
    )
    return Bar(low, value, high, abs(difference.value) > edge)


def difference_cell(difference: Difference | None, places: int, edge: float) -> PageCell:
    """Return the cell of a paired difference; an empty one where there is none."""
    if difference is None:
        return PageCell("")
    text, verdict = difference_cells(difference, places)
    plain = difference.verdict
    note = verdict.removeprefix(plain).strip()
    return PageCell(text, difference.value, plain, note, bar_of(difference, edge))


def edge_for(differences: Sequence[Difference | None]) -> float:
    """Return where the bars of a column end."""
    return edge_of((one.low, one.high) for one in differences if one is not None)


def results_cells(
    metrics: Sequence[str], rows: Sequence[Row], texts: TextTable, published: Mapping[str, bool]
) -> list[list[PageCell]]:
    """Return the cells of a table of results: those of `texts`, with numbers and bars."""
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
            next(found), next(found)  # the difference and its verdict, in one cell here
            difference = number.difference if number else None
            places = digits_for(number.mean) if number else 2
            cells.append(difference_cell(difference, places, edges[metric]))
        cells.append(PageCell(next(found), row.num_forward_passes))
        lines.append(cells)
    return lines


def comparison_cells(
    metrics: Sequence[str], compared: Sequence[Comparison], texts: TextTable, num_names: int
) -> list[list[PageCell]]:
    """Return the cells of row against row."""
    edges = {m: edge_for([one.differences[m] for one in compared]) for m in metrics}
    lines = []
    for one, line in zip(compared, texts.lines, strict=True):
        cells = [PageCell(text, text) for text in line[:num_names]]
        for index, metric in enumerate(metrics):
            difference = one.differences[metric]
            cell = difference_cell(difference, 2, edges[metric])
            written = line[num_names + 2 * index]  # with the digits of the table
            cells.append(PageCell(written, cell.key, cell.verdict, cell.note, cell.bar))
        lines.append(cells)
    return lines
