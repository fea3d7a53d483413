"""Write a table as Markdown, LaTeX and CSV, and show it on the terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deme.report.escape import csv_text, latex_text, markdown_block, markdown_code, markdown_text
from deme.report.rows import Comparison, Number, Row
from deme.report.statistics import Difference, digits_for
from deme.report.terminal import text_table
from deme.runs import Suite
from deme.system import JsonObject, print_result

NOT_MEASURED = "Not measured yet"
ONE_SEED = (
    "(1 seed): the verdict is about the weights of one finetuning seed, not about the method; its "
    "interval leaves out the spread between finetuning seeds."
)
CSV_COLUMNS = [
    "row", "metric", "mean", "published", "std", "num_values", "num_images", "difference", "low",
    "high", "verdict", "num_finetune_seeds", "forward_passes", "reference", "implementation",
]  # fmt: skip


class TextTable(NamedTuple):
    """Texts with a title for each column."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def header(suite: Suite, metrics: Sequence[str]) -> list[str]:
    """Return the column titles of a table of these metrics."""
    columns = ["row"]
    for metric in metrics:
        columns += (
            [f"{metric}, published (measured minus published)"] if _published(suite, metric) else []
        )
        columns += [metric, f"difference to {suite.settings.baseline} (95% interval)", "verdict"]
    return [*columns, "training compute"]


def _published(suite: Suite, metric: str) -> bool:
    return any(metric in values for values in suite.expected.values())


def _published_cell(row: Row, metric: str) -> str:
    if metric not in row.expected:
        return ""
    value, number = row.expected[metric], row.numbers.get(metric)
    return f"{value:.2f}" + (f" ({number.mean - value:+.2f})" if number else "")


def cells(suite: Suite, metrics: Sequence[str], row: Row) -> list[str]:
    """Return a row's texts, `--` for what is not measured."""
    texts = [row.label]
    for metric in metrics:
        number = row.numbers.get(metric)
        texts += [_published_cell(row, metric)] if _published(suite, metric) else []
        texts += _number_cells(number) if number else ["--", "", ""]
    return [*texts, _count(row.num_forward_passes)]


def _count(number: int) -> str:
    return f"{number / 1e6:.2f}M" if number >= 100_000 else f"{number:,}"


def _verdict(difference: Difference) -> str:
    claim = difference.verdict != "not resolved"
    return difference.verdict + (
        " (1 seed)" if claim and difference.num_finetune_seeds == 1 else ""
    )


def difference_cells(difference: Difference | None, places: int) -> list[str]:
    """Return a difference with its interval, and its verdict; empty texts where there is none."""
    if difference is None:
        return ["", ""]
    d = difference
    return [f"{d.value:+.{places}f} [{d.low:+.{places}f}, {d.high:+.{places}f}]", _verdict(d)]


def _number_cells(number: Number) -> list[str]:
    places = digits_for(number.mean)
    value = f"{number.mean:.{places}f}"
    if number.std is not None:
        value += f" ± {number.std:.{places}f}"
    if number.num_values > 1:
        value += f" (n={number.num_values})"
    return [value, *difference_cells(number.difference, places)]


def results_table(suite: Suite, metrics: Sequence[str], rows: Sequence[Row]) -> TextTable:
    """Return the table of these metrics."""
    lines = [cells(suite, metrics, row) for row in rows]
    return TextTable(suite.title, header(suite, metrics), lines)


def comparisons_table(
    metrics: Sequence[str], rows: Sequence[Row], compared: Sequence[Comparison]
) -> TextTable:
    """Return row, other row, and a difference and a verdict per metric."""
    places = {
        metric: digits_for(
            next((row.numbers[metric].mean for row in rows if metric in row.numbers), 0.0)
        )
        for metric in metrics
    }
    columns = [t for m in metrics for t in (f"{m}, difference (95% interval)", "verdict")]
    lines = [
        [one.label, one.other]
        + [t for m in metrics for t in difference_cells(one.differences[m], places[m])]
        for one in compared
    ]
    return TextTable("Row against row", ["row", "against", *columns], lines)


def part_tables(rows: Sequence[Row]) -> list[TextTable]:
    """Return a table for each metric that has parts, in the order in which they were measured.

    Parts are the loss in each range of timesteps, or a score in each kind of prompt. A table has a
    line per row and a column per part.
    """
    names = dict.fromkeys(name for row in rows for name in row.numbers if "/" in name)
    about = {n: next(row.numbers[n].about for row in rows if n in row.numbers) for n in names}
    return [
        _table(
            rows, metric, {name: of for name, of in about.items() if name.split("/")[0] == metric}
        )
        for metric in dict.fromkeys(name.partition("/")[0] for name in about)
    ]


def _table(rows: Sequence[Row], metric: str, parts: Mapping[str, JsonObject]) -> TextTable:
    if metric == "loss":
        title = "Loss per range of timesteps"
        columns = [f"t in {about.get('range', name)}" for name, about in parts.items()]
    else:
        title = f"{metric} by kind of prompt"
        columns = [f"{name.partition('/')[2]} (n = {of['n']:,})" for name, of in parts.items()]
    lines = [[row.label, *(_cell(row.numbers.get(name)) for name in parts)] for row in rows]
    return TextTable(title, ["row", *columns], [x for x in lines if set(x[1:]) != {"--"}])


def _cell(number: Number | None) -> str:
    if number is None:
        return "--"
    change = ""
    if number.difference and number.mean != number.difference.value:
        share = number.difference.value / (number.mean - number.difference.value)
        change = f" ({share:+.2%}, {_verdict(number.difference)})"
    return f"{number.mean:.{digits_for(number.mean)}f}{change}"


def notes(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """Return what the numbers mean: implementation, counts, seeds, intervals."""
    settings = suite.settings
    labels = {
        metric: row.numbers[metric].about
        for metric in settings.metrics
        for row in reversed(rows)  # the first row that has one counts
        if metric in row.numbers and "std" not in row.numbers[metric].about
    }
    scores = any("prompts" in about for about in labels.values())
    verdicts = [_verdict(n.difference) for r in rows for n in r.numbers.values() if n.difference]
    return [
        *(_label_note(metric, about) for metric, about in labels.items()),
        f"Finetuning seeds {list(settings.finetune_seeds)}, sampling seeds "
        f"{list(settings.sample_seeds)}; value ± standard deviation over the n combinations "
        "(the loss does not depend on the sampling seed).",
        "Differences are paired (same initial noise, same held-out triples); their variance is "
        f"that of the paired bootstrap over images{', of scores over prompts,' if scores else ''} "
        + (
            "plus that between finetuning seeds."
            if len(settings.finetune_seeds) > 1
            else "and leaves out that between finetuning seeds."
        ),
        *([ONE_SEED] if any("(1 seed)" in verdict for verdict in verdicts) else []),
        "Training compute: forward passes of one image per finetuning seed, a backward pass "
        "counted as two; search included, evaluation not.",
        *settings.notes,
    ]


def _label_note(metric: str, about: JsonObject) -> str:
    images = f" images of {about['prompts']:,} prompts" if "prompts" in about else ""
    return (
        f"{metric}: {about['implementation']}, n = {about['n']:,}{images} against "
        f"{about['reference']}; {about['better']} is better."
    )


def markdown(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> str:
    """Return the table, its notes, row against row, and the commands for what is missing."""
    metrics = suite.settings.metrics
    parts = [
        f"# {markdown_text(suite.title)}",
        _md_table(results_table(suite, metrics, rows)),
        "\n".join(f"- {markdown_text(note)}" for note in notes(suite, rows)),
    ]
    missing = dict.fromkeys(command for row in rows for command in row.missing)
    if missing:
        command = markdown_code(f"deme reproduce {suite.file}")
        parts += [f"{NOT_MEASURED}; {command} makes it, or by hand:", markdown_block([*missing])]
    tables = [comparisons_table(metrics, rows, compared)] if compared else []
    for table in [*tables, *part_tables(rows)]:
        parts += [f"## {markdown_text(table.title)}", _md_table(table)]
    return "\n\n".join(parts) + "\n"


def _md_table(table: TextTable) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.lines]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)


def latex(suite: Suite, rows: Sequence[Row]) -> str:
    """Return a booktabs tabular."""
    table = results_table(suite, suite.settings.metrics, rows)
    first, *body = (
        " & ".join(map(latex_text, line)) + r" \\" for line in (table.columns, *table.lines)
    )
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        first,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """Return one line per row and metric with full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        for metric, number in row.numbers.items():
            d = number.difference
            writer.writerow(
                [
                    row.name,
                    csv_text(metric),
                    number.mean,
                    row.expected.get(metric, ""),
                    number.std,
                    number.num_values,
                    number.about["n"],
                    *((d.value, d.low, d.high, d.verdict, d.num_finetune_seeds) if d else [""] * 5),
                    row.num_forward_passes,
                    csv_text(number.about["reference"]),
                    csv_text(number.about["implementation"]),
                ]
            )
    return out.getvalue()


def show(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> None:
    """Print the table, and row against row, to standard output."""

    def results(metrics: Sequence[str]) -> str:
        return text_table(*results_table(suite, metrics, rows))

    def comparisons(metrics: Sequence[str]) -> str:
        return text_table(*comparisons_table(metrics, rows, compared), num_left=2)

    metrics = suite.settings.metrics
    for table_of in (results, comparisons) if compared else (results,):
        text = table_of(metrics)
        if "…" in text:  # cut off: one table for each metric
            text = "\n".join(table_of([metric]) for metric in metrics)
        print_result(text)
    for parts in part_tables(rows) if suite.settings.show_parts else ():
        print_result(text_table(*parts))
