"""A table as LaTeX with booktabs: numbers in math mode, the best of each column in bold."""

from collections.abc import Sequence

from deme.report.escape import latex_text
from deme.report.rows import Number, Row
from deme.report.statistics import Difference
from deme.report.tables import by_base, has_published
from deme.runs import Suite
from deme.system import digits_for

NOTE = (
    "% An asterisk: the 95% interval of the paired difference excludes zero. Bold: the best mean\n"
    "% of rows that are compared. A dagger: one finetuning seed, about these weights alone.\n"
    "% Needs \\usepackage{booktabs}."
)


def latex(suite: Suite, rows: Sequence[Row]) -> str:
    """Return a booktabs tabular: for each metric the value and the difference to the baseline."""
    metrics = suite.settings.metrics
    published = [metric for metric in metrics if has_published(suite, metric)]
    columns = ["row"]
    for metric in metrics:
        columns += [f"{latex_text(metric)} (published)"] if metric in published else []
        columns += [f"{latex_text(metric)} {_arrow(metric, rows)}", r"$\Delta$"]
    columns += [r"$10^6$ passes"]
    body = []
    for base, part in by_base(suite, rows):
        heading = rf"\multicolumn{{{len(columns)}}}{{l}}{{{latex_text(base)}}} \\"
        body += [r"\midrule", *([heading, r"\midrule"] if base else [])]
        best = {metric: _best(metric, part) for metric in metrics}
        body += [_line(row, metrics, published, best) for row in part]
    lines = [
        NOTE,
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _is_higher_better(metric: str, rows: Sequence[Row]) -> bool:
    found = (row.numbers[metric].about["better"] for row in rows if metric in row.numbers)
    return next(found, "lower") == "higher"


def _arrow(metric: str, rows: Sequence[Row]) -> str:
    return r"$\uparrow$" if _is_higher_better(metric, rows) else r"$\downarrow$"


def _best(metric: str, rows: Sequence[Row]) -> float | None:
    """Return the best mean of the rows that are compared with the baseline."""
    means = [
        row.numbers[metric].mean
        for row in rows
        if metric in row.numbers and row.numbers[metric].difference is not None
    ]
    if not means:
        return None
    return max(means) if _is_higher_better(metric, rows) else min(means)


def _line(
    row: Row,
    metrics: Sequence[str],
    published: Sequence[str],
    best: dict[str, float | None],
) -> str:
    cells = [latex_text(row.label)]
    for metric in metrics:
        number = row.numbers.get(metric)
        if metric in published:
            value = row.expected.get(metric)
            cells.append("" if value is None else f"${value:.2f}$")
        if number is None:
            cells += ["--", ""]
            continue
        is_best = number.difference is not None and number.mean == best[metric]
        places = digits_for(number.mean)
        cells += [_value(number, places, is_best), _difference(number.difference, places)]
    passes = row.num_forward_passes / 1e6
    return " & ".join([*cells, f"${passes:.2f}$" if passes else "$0$"]) + r" \\"


def _value(number: Number, places: int, is_best: bool) -> str:
    mean = f"{number.mean:.{places}f}"
    spread = "" if number.std is None else rf" \pm {number.std:.{places}f}"
    return rf"$\mathbf{{{mean}}}{spread}$" if is_best else f"${mean}{spread}$"


def _difference(difference: Difference | None, places: int) -> str:
    if difference is None:
        return ""
    d = difference
    mark = r"\ast" if d.verdict != "not resolved" else ""
    mark += r"\dagger" if mark and d.of_one_model else ""
    power = f"^{{{mark}}}" if mark else ""
    return f"${d.value:+.{places}f}{power}\\ [{d.low:+.{places}f}, {d.high:+.{places}f}]$"
