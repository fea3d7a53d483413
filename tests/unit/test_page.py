"""The parts of a page: its minus signs, bars, verdict and escapes."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from deme.report.figures import edge_of
from deme.report.latex import latex
from deme.report.page.bars import bar_of
from deme.report.page.drawing import inline_svg
from deme.report.page.html import render, true_minus
from deme.report.page.verdict import best_row, verdicts
from deme.report.rows import Number, Row
from deme.report.statistics import Difference
from deme.report.style import COLOURS, INK, style
from deme.runs import RowSettings, Suite, SuiteSettings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-1.5 [-2, -1]", "~1.5 [~2, ~1]"),
        ("Min-SNR-gamma", "Min-SNR-gamma"),
        ("cifar-10", "cifar-10"),
        ("1e-4", "1e-4"),
        ("--", "--"),
        ("", ""),
    ],
)  # fmt: skip
def test_signs_before_numbers_are_minus_signs_and_hyphens_stay(text, shown):
    assert true_minus(text) == shown.replace("~", "\N{MINUS SIGN}")


def test_a_bar_has_zero_in_its_middle_and_is_cut_at_the_edge():
    bar = bar_of(Difference(-1.0, -2.0, 0.0, 2), edge=4.0)
    assert (bar.low, bar.value, bar.high, bar.is_cut) == (25.0, 37.5, 50.0, False)
    assert bar_of(Difference(9.0, 8.0, 10.0, 2), edge=4.0).is_cut
    assert edge_of([(-1, 1), (-2, 1), (0, 3), (90, 100)]) == 3


def row(name, mean, difference, better="lower"):
    about = {"better": better, "n": 5, "reference": "r", "implementation": "i"}
    number = Number(mean, None, 1, about, difference and difference.of(about))
    return Row(name, f"the {name}", {"m": number}, (), 0, None)


def suite():
    rows = tuple(RowSettings(name=n, label=f"the {n}", evaluate=()) for n in ("before", "a", "b"))
    settings = SuiteSettings(suite="s", baseline="before", metrics=("m",), rows=rows,
                             finetune_seeds=(0, 1), sample_seeds=(1,))  # fmt: skip
    return Suite(Path("suite.yaml"), Path("runs"), settings)


def test_the_verdict_names_the_best_row_only_if_it_is_better():
    before = row("before", 10.0, None)
    better, unsure = Difference(-2.0, -3.0, -1.0, 2), Difference(-1.0, -3.0, 1.0, 2)
    (text,) = verdicts(suite(), [before, row("a", 8.0, better), row("b", 9.0, unsure)])
    assert text.startswith("Best in m: the a, -2.00 [-3.00, -1.00]")
    (text,) = verdicts(suite(), [before, row("b", 9.0, unsure)])
    assert text.startswith("No row is better in m than the before")


def test_higher_is_better_where_the_metric_says_so():
    rows = [row("a", 8.0, Difference(-2.0, -3.0, -1.0, 2), "higher"),
            row("b", 12.0, Difference(2.0, 1.0, 3.0, 2), "higher")]  # fmt: skip
    assert best_row(rows, ["m"]) is rows[1]


def test_a_label_cannot_be_markup():
    hostile = "<script>alert(1)</script>"
    context = {"title": hostile, "version": "0", "made": "", "name": hostile, "state": "done"}
    empty = ("error", "conclusion", "command", "config", "curves", "seconds")
    lists = {key: [] for key in ("tables", "pictures", "others")}
    page = render("run.html.jinja", {**context, **dict.fromkeys(empty, ""), **lists,
                                     "facts": {hostile: hostile}, "environment": {}})  # fmt: skip
    assert hostile not in page
    assert "&lt;script&gt;alert(1)" in page


def test_figures_of_a_page_follow_its_colours_and_share_no_ids():
    def drawn(colour):
        with style():
            figure = Figure()
            axis = figure.subplots()
            axis.plot([0, 1], color=colour, clip_on=True)
            axis.set_title('a "title" & more', parse_math=False)
        return str(inline_svg(figure, 'about "this"'))

    one, other = drawn(COLOURS["better"]), drawn(COLOURS["worse"])
    assert "var(--better)" in one
    assert "currentColor" in one
    assert INK not in one
    ids = [{part.split('"')[0] for part in text.split(' id="')[1:]} for text in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert 'aria-label="about &#34;this&#34;"' in one


def test_latex_has_formulas_an_asterisk_for_what_is_resolved_and_the_best_in_bold():
    better, unsure = Difference(-2.0, -3.0, -1.0, 2), Difference(-1.0, -3.0, 1.0, 2)
    lines = latex(suite(), [row("before", 10.0, None), row("a", 8.0, better),
                            row("b", 9.0, unsure), row("c", 7.9, None)]).splitlines()  # fmt: skip
    of_a, of_b, of_c = (next(x for x in lines if x.startswith(f"the {n} &")) for n in "abc")
    assert r"$\mathbf{8.00}$ & $-2.00^{\ast}\ [-3.00, -1.00]$" in of_a
    assert r"$9.00$ & $-1.00\ [-3.00, +1.00]$" in of_b
    assert "mathbf" not in of_c
    assert r"m $\downarrow$" in lines[5]
