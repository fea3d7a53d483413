"""The orders of a suite's rows: in the table, and in which their runs are laid out."""

from collections.abc import Sequence
from graphlib import TopologicalSorter

from deme.runs.settings import RowSettings


def in_table_order(rows: Sequence[RowSettings]) -> tuple[RowSettings, ...]:
    """Put each row with the key `after` behind the row that it names."""
    placed = [row for row in rows if row.after is None]
    for row in reversed(rows):
        if row.after is not None:
            names = [each.name for each in placed]
            placed.insert(names.index(row.after) + 1, row)
    return tuple(placed)


def in_order(rows: Sequence[RowSettings]) -> list[RowSettings]:
    """Return the rows with those first whose models or merge weights others take.

    Raises CycleError for rows that wait for each other.
    """
    sorter = TopologicalSorter(
        {row.name: {row.experts_of, row.search_of, row.starts_from} - {None} for row in rows}
    )
    sorter.prepare()
    found: list[RowSettings] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found += [row for row in rows if row.name in ready]
        sorter.done(*ready)
    return found
