"""Texts of runs, suites, captions and paths as plain text in Markdown, HTML, LaTeX and CSV.

Whoever wrote a run directory or a suite decides what its names say, not what a page does.
"""

import re
from collections.abc import Sequence

from deme.system import printable, single_line

# active in Markdown, in GitHub's tables and formulas; `_` inside of a word is not
MARKDOWN = re.compile(r"[\\`*~$|]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")
HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
MAX_PARAGRAPH = 2_000  # characters
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "%&#_${}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
    }
)


def markdown_text(text: object) -> str:
    """Return a text as Markdown that shows it, in a line and in a cell of a table."""
    return MARKDOWN.sub(r"\\\g<0>", single_line(str(text), MAX_PARAGRAPH).translate(HTML))


def markdown_code(text: object) -> str:
    """Return a text as a code span in a line of Markdown."""
    line = single_line(str(text))
    fence = "`" * (1 + _longest_run(line))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def markdown_block(lines: Sequence[str]) -> str:
    """Return lines as a block of code in Markdown, which no line of them ends."""
    text = printable("\n".join(lines))
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def csv_text(text: object) -> str:
    """Return a text as a cell of a CSV file, which no spreadsheet takes for a formula."""
    line = single_line(str(text), MAX_PARAGRAPH)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def latex_text(text: object) -> str:
    """Return a text as LaTeX that shows it, in a cell of a table, also of the first column.

    A bracket or a star at its start would be an argument of the line break before it.
    """
    line = single_line(str(text)).translate(LATEX)
    return f"{{}}{line}" if line.startswith(("[", "*")) else line
