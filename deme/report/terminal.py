"""Tables on the terminal."""

import io
from collections.abc import Sequence

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
    console = Console(width=max(Console().width, 150), file=io.StringIO(), force_terminal=False)
    table = Table(title=title and Text(single_line(title, 2_000)))
    for index, column in enumerate(columns):
        heading = Text(single_line(column))
        table.add_column(heading, justify="left" if index < num_left else "right")
    for line in lines:
        table.add_row(*(Text(single_line(str(cell))) for cell in line))
    with console.capture() as found:
        console.print(table)
    return found.get().rstrip("\n")
