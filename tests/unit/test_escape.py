"""What runs, suites and captions say stays text: in Markdown, HTML, LaTeX, Python, pictures, and on the terminal."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from deme.cli.app import main
from deme.report import figures
from deme.report.escape import csv_text, latex_text, markdown_block, markdown_code, markdown_text
from deme.report.latex import latex
from deme.report.model_card import _literal
from deme.report.notes import ONE_SEED, notes
from deme.report.rows import Number, Row
from deme.report.statistics import Difference
from deme.report.tables import markdown, part_tables, results_table
from deme.report.terminal import text_table
from deme.runs import RowSettings, Suite, SuiteSettings
from deme.system import logger, print_result, printable, single_line
from deme.system.console import CONTROL, MAX_LINE, MAX_NAME

GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b \\| c \\\\| d",
    "`code` ``` ~~~ `",
    "[link](https://example.org) ![picture](x.png)",
    "[ref][a] [a]: https://example.org",
    "*bold* __bold__ _em_ **x** fd_digits ~~gone~~ $x^2$ \\alpha",
    "&amp; &lt;b&gt; R&D",
    "]] [[ ]( ) \\",
    "# no heading\n\n- no list\n\n<b>no html</b>\n```\ncode\n```",
    "100% #1 {brace} ~tilde ^caret \\newcommand",
    "5^4 $ } { \\input{/etc/passwd} \\write18{x}",
    "N\u00a0= 4, gl\u00fcck, \u4f60\u597d \u00b1",
    "\x1b]0;title\x07\x1b[31mred\r\u202edesrever",
]


def inline_text(source):
    """What a reader sees of inline Markdown, if all of it is text."""
    (token,) = [t for t in GFM.parse(source) if t.type == "inline"]
    kinds = {child.type for child in token.children}
    assert kinds <= {"text", "text_special"}, (source, kinds)
    return "".join(child.content for child in token.children)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_a_text_as_it_is(text):
    line = single_line(text)
    assert inline_text(f"x {markdown_text(text)}") == f"x {line}"
    assert inline_text(f"- {markdown_text(f'x{text}')}") == f"x{line}".rstrip()
    assert not re.search(r"<\w", markdown_text(text))  # also where HTML is not CommonMark's


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_span_holds_the_whole_text(text):
    (token,) = [t for t in GFM.parse(f"x {markdown_code(text)} y") if t.type == "inline"]
    assert [child.type for child in token.children] == ["text", "code_inline", "text"]
    assert token.children[1].content == single_line(text)


def test_a_block_of_code_is_not_ended_by_what_is_in_it():
    lines = ["deme train 'a=1", "```", "````", "<b>'", "x"]
    (fence,) = GFM.parse(markdown_block(lines))
    assert (fence.type, fence.content) == ("fence", "\n".join(lines) + "\n")


@pytest.mark.parametrize("value", [*HOSTILE, '"""; import os #', True, None, 0.5, 7])
def test_literals_of_python_are_literals(value):
    assert ast.literal_eval(_literal(value)) == value
    assert "\n" not in _literal(value)


def suite_of(label, title):
    before = RowSettings(name="before", label="before", evaluate=())
    row = RowSettings(name="row", label=label, evaluate=())
    settings = SuiteSettings(suite="s", title=title, baseline="before", metrics=("fd_digits",), rows=(before, row),
                             finetune_seeds=(0,), sample_seeds=(1,), notes=(title,))  # fmt: skip
    about = {"n": 718, "better": "lower", "reference": title, "implementation": label}
    parts = {
        "fd_digits": Number(9.5, 0.5, 4, about, Difference(-0.4, -0.7, -0.1, 2)),
        f"fd_digits/{label}": Number(9.5, 0.5, 4, about, None),
    }
    rows = [Row("row", label, parts, (f"deme evaluate 'a\n```\n<b>{label}'",), 0, None)]
    return Suite(Path("s.yaml"), Path("runs"), settings), rows


PRINTABLE = [text for text in HOSTILE if single_line(text, MAX_NAME) == text]


@pytest.mark.parametrize("text", PRINTABLE)
def test_tables_keep_their_shape_in_markdown(text):
    suite, rows = suite_of(text, text)
    tokens = GFM.parse(markdown(suite, rows))
    assert not [t for t in tokens if t.type.startswith("html")]
    shown = ["".join(c.content for c in t.children) for t in tokens if t.type == "inline"]
    inline = [child.type for t in tokens if t.type == "inline" for child in t.children]
    assert set(inline) <= {"text", "text_special", "code_inline", "softbreak"}
    assert [t.type for t in tokens].count("td_open") == 5 + 2
    assert shown.count(text) == 1 + 2 + 1  # title, label in both tables, note
    assert [t.type for t in tokens].count("fence") == 1


LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "{": r"\{", "}": r"\}",
    "$": r"\$", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def read_latex(source):
    """The text that a LaTeX source shows; what is left over when its escapes are taken out must be plain."""
    named = {v: k for k, v in LATEX_SPECIAL.items()} | {r"$\pm$": "\u00b1"}
    pattern = re.compile("|".join(map(re.escape, sorted(named, key=len, reverse=True))))
    shown, rest = [], source.removeprefix("{}")
    while rest:
        found = pattern.match(rest)
        shown.append(named[found[0]] if found else rest[0])
        assert found or rest[0] not in LATEX_SPECIAL, (source, rest)
        rest = rest[found.end() :] if found else rest[1:]
    return "".join(shown)


@pytest.mark.parametrize("text", [*HOSTILE, *LATEX_SPECIAL, "[x] first", "*star"])
def test_latex_shows_a_text_as_it_is(text):
    assert read_latex(latex_text(text)) == single_line(text)
    assert csv_text(text)[:1] not in {*"=+-@"}
    assert csv_text(text).removeprefix("'") == single_line(text).removeprefix("'")
    assert not latex_text(text).startswith(("[", "*"))  # arguments of the \\ before the cell


@pytest.mark.parametrize("text", PRINTABLE)
def test_tables_keep_their_shape_in_latex(text):
    suite, rows = suite_of(text, text)
    *_, head, _, line, _, _ = latex(suite, rows).splitlines()
    for one in (head, line):
        cells = one.removesuffix(r" \\").split(" & ")
        assert len(cells) == 4
        for cell in cells:
            read_latex(re.sub(r"(?<!\\)\$[^$]*(?<!\\)\$", "", cell))  # without its formulas
    assert read_latex(line.split(" & ")[0]) == text


def test_committed_tables_need_no_escape():
    """They were written before there was one, and a table that is made again is the same."""
    pages = list((Path(__file__).parents[2] / "experiments").glob("*/results/*.md"))
    cells = [
        cell
        for page in pages
        if (page.with_suffix(".tex")).exists()
        for line in page.read_text().splitlines()
        if line.startswith("| ") and "---" not in line
        for cell in line[2:-2].split(" | ")
    ]
    assert len(cells) > 300
    assert [cell for cell in cells if markdown_text(cell) != cell] == []


def test_a_table_on_the_terminal_is_text():
    table = text_table("[red]title[/red]", ["[link=file:///x]row[/link]", "b"],
                       [["[/oops] [bold]x[/bold]", ":smile: \x1b[31mred"], ["y" * 10**6, "\x07"]])  # fmt: skip
    for text in ("[red]title[/red]", "[link=file:///x]row[/link]", "[/oops] [bold]x", ":smile:"):
        assert text in table
    assert not CONTROL.search(table)
    assert len(table) < 20_000


def test_what_is_printed_holds_no_terminal_escapes_and_no_endless_lines(capsys, tmp_path):
    hostile = "\x1b]0;t\x07\x1b[2J\x9b31m\rgone\u202edrawkcab\ud800\n\tsecond line"
    print_result(hostile)
    logger.warning("%s", hostile.replace("\ud800", ""))  # pytest keeps log records as they are
    assert main(["compare", f"{tmp_path}/{hostile}", "x" * 10**6]) == 3
    assert main(["\x1b[31mtrain"]) == 2
    assert main(["train", "suite='\x1b[31m'"]) == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not CONTROL.search(text)
        assert max(map(len, text.splitlines())) < MAX_LINE + 100
        assert r"\x1b]0;t\x07\x1b[2J\x9b31m\rgone\u202edrawkcab\ud800" in text
    assert "\n\tsecond line" in out
    assert printable("plain \u00e9 \u4f60 \u00b1\t\n") == "plain \u00e9 \u4f60 \u00b1\t\n"


def test_pictures_show_formulas_as_text():
    """matplotlib refuses to draw half a formula."""
    rows = suite_of(r"$\frac{", r"$\bad{$ $")[1]
    drawn = figures.png(figures.differences(rows, ["fd_digits"], r"$\frac{"))
    assert drawn.startswith(b"\x89PNG")


@pytest.mark.parametrize(("seeds", "said"), [(1, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("name", ["fd_digits", "fd_digits/part"])
def test_a_verdict_about_one_finetuning_seed_says_so_in_every_table(name, seeds, said):
    """Of a row, and of its parts; the note says what the interval leaves out."""
    suite, rows = suite_of("x", "t")
    about = rows[0].numbers["fd_digits"].about
    difference = Difference(-0.4, -0.7, -0.1, seeds)
    rows = [replace(rows[0], numbers={name: Number(9.5, 0.5, 4, about, difference)})]
    tables = results_table(suite, ["fd_digits"], rows), *part_tables(rows)
    cells = [cell for table in tables for line in table.lines for cell in line]
    assert sum("better" in cell for cell in cells) == 1
    assert sum("(1 seed)" in cell for cell in cells) == said
    assert (ONE_SEED in notes(suite, rows)) == bool(said)
