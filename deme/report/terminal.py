"""Tables on the terminal."""

import io
import sys
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deme.system import single_line

NARROW = 24  # characters that a column of labels keeps while only headings and labels wrap
BORDERS = 3  # characters that each column adds to the table


class TextTable(NamedTuple):
    """Texts with a title for each column."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def terminal_width() -> int | None:
    """Return the width of the terminal, None if standard output is not a terminal."""
    return Console().width if sys.stdout.isatty() else None


def text_table(
    title: str | None, columns: Sequence[str], lines: Sequence[Sequence[str]], num_left: int = 1
) -> str:
    """Return a table for the terminal; its first `num_left` columns are aligned to the left.

    Cells are shown literally, without markup. In a terminal that is too narrow, cells wrap,
    headings and labels first. If standard output is not a terminal, the table is as wide as its
    texts.
    """
    shape = _Shape.of(columns, lines, num_left)
    width = terminal_width()
    widths = shape.natural if width is None else shape.fitting(width)
    wraps = any(
        cell_len(cell) > room
        for line in shape.rows[1:]
        for cell, room in zip(line, widths, strict=True)
    )
    console = Console(
        width=_width(widths),
        file=io.StringIO(),
        force_terminal=False,
        force_jupyter=False,  # which would display it, and write escape codes
    )
    table = Table(title=title and Text(single_line(title, 2_000)), show_lines=wraps)
    for index, (heading, room) in enumerate(zip(shape.rows[0], widths, strict=True)):
        justify: Literal["left", "right"] = "left" if index < num_left else "right"
        table.add_column(Text(heading), justify=justify, width=room, overflow="fold")
    for line in shape.rows[1:]:
        table.add_row(*map(Text, line))
    with console.capture() as found:
        console.print(table)
    return found.get().rstrip("\n")


def fits(columns: Sequence[str], lines: Sequence[Sequence[str]], num_left: int = 1) -> bool:
    """Whether a table fits into the terminal if only headings and labels wrap."""
    width = terminal_width()
    return width is None or _width(_Shape.of(columns, lines, num_left).whole) <= width


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + BORDERS * len(widths) + 1


class _Shape(NamedTuple):
    """The texts of a table, headings first, and possible widths of its columns in characters."""

    rows: list[list[str]]
    natural: list[int]  # nothing wraps
    whole: list[int]  # headings and labels wrap
    words: list[int]  # everything wraps between words

    @classmethod
    def of(cls, columns: Sequence[str], lines: Sequence[Sequence[str]], num_left: int) -> "_Shape":
        rows = [[single_line(str(cell)) for cell in line] for line in (columns, *lines)]
        found = cls(rows, [], [], [])
        for index, texts in enumerate(zip(*rows, strict=True)):
            words = max((cell_len(word) for text in texts for word in text.split()), default=0)
            heading = max(map(cell_len, texts[0].split()), default=0)
            natural = max(1, *map(cell_len, texts))
            whole = max(1, heading, *map(cell_len, texts[1:]))
            found.natural.append(natural)
            found.whole.append(min(natural, NARROW) if index < num_left else whole)
            found.words.append(min(max(1, words), found.whole[-1]))
        return found

    def fitting(self, width: int) -> list[int]:
        """Return the widths of the columns in a table of at most `width` characters.

        Words are broken only where nothing else helps.
        """
        widths = [*self.natural]
        for least in (self.whole, self.words, [1] * len(widths)):
            while _width(widths) > width:
                spare, index = max((room - least[i], i) for i, room in enumerate(widths))
                if spare == 0:
                    break
                widths[index] -= 1
        return widths


def aligned(
    columns: Sequence[str], lines: Sequence[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Return a table without borders; cells are shown literally. A thousand lines take 10 ms."""
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
