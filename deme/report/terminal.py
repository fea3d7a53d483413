"""Tables on the terminal."""

import io
from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deme.system import single_line


def text_table(
    title: str | None, columns: Sequence[str], lines: Sequence[Sequence[str]], num_left: int = 1
) -> str:
    """Return a table for the terminal, its first `num_left` columns aligned to the left.

    It is plain text, whatever its cells hold.
    """
    console = Console(
        width=max(Console().width, 150),
        file=io.StringIO(),
        force_terminal=False,
        force_jupyter=False,  # which would display it, and write escape codes
    )
    table = Table(title=title and Text(single_line(title, 2_000)))
    for index, column in enumerate(columns):
        heading = Text(single_line(column))
        table.add_column(heading, justify="left" if index < num_left else "right")
    for line in lines:
        table.add_row(*(Text(single_line(str(cell))) for cell in line))
    with console.capture() as found:
        console.print(table)
    return found.get().rstrip("\n")


def aligned(
    columns: Sequence[str], lines: Sequence[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Return a table without borders, whatever its cells hold: a thousand lines take 10 ms."""
    rows = [[single_line(str(cell)) for cell in line] for line in (columns, *lines)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    texts = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            room = " " * (width - cell_len(cell))
            cells.append(room + cell if index in right else cell + room)
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)
