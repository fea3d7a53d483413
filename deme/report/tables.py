"""Write a table as Markdown, LaTeX and CSV, and show it on the terminal."""

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from deme.report.numbers import digits_for
from deme.report.parts import part_tables
from deme.report.rows import Comparison, Number, Row
from deme.report.statistics import Difference
from deme.runs.suite import Suite
from deme.system import print_result

NOT_MEASURED = "Not measured yet"


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
    return [*texts, _count(row.forwards)]


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


def comparison_cells(
    metrics: Sequence[str], rows: Sequence[Row], compared: Comparison
) -> list[str]:
    """Return a comparison's texts: row, other row, and a difference and a verdict per metric."""
    texts = [compared.label, compared.other]
    for metric in metrics:
        mean = next((row.numbers[metric].mean for row in rows if metric in row.numbers), 0.0)
        texts += difference_cells(compared.differences[metric], digits_for(mean))
    return texts


def comparison_header(metrics: Sequence[str]) -> list[str]:
    """Return the column titles of the comparisons."""
    columns = [(f"{metric}, difference (95% interval)", "verdict") for metric in metrics]
    return ["row", "against", *(text for pair in columns for text in pair)]


def notes(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """Return what the numbers mean: implementation, counts, seeds, intervals."""
    lines, scores = [], False
    for metric in suite.settings.metrics:
        about = next(
            (
                row.numbers[metric].about
                for row in rows
                if metric in row.numbers and "std" not in row.numbers[metric].about
            ),
            None,
        )
        if about:
            scores |= "prompts" in about
            images = f" images of {about['prompts']:,} prompts" if "prompts" in about else ""
            lines.append(
                f"{metric}: {about['implementation']}, n = {about['n']:,}{images} against {about['reference']}; "
                f"{about['better']} is better."
            )
    seeds = list(suite.settings.finetune_seeds)
    lines += [
        f"Finetuning seeds {seeds}, sampling seeds {list(suite.settings.sample_seeds)}; value ± standard deviation over the n combinations "
        "(the loss does not depend on the sampling seed).",
        "Differences are paired (same initial noise, same held-out triples); their variance is that of the paired bootstrap over images"
        + (", of scores over prompts, " if scores else " ")
        + (
            "plus that between finetuning seeds."
            if len(seeds) > 1
            else "alone: with one finetuning seed they say nothing about another."
        ),
        "Training compute: forward passes of one image per finetuning seed, a backward pass counted as two; search included, evaluation not.",
        *suite.settings.notes,
    ]
    return lines


def markdown(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> str:
    """Return the table, its notes, row against row, and the commands for what is missing."""
    metrics = suite.settings.metrics
    columns = header(suite, metrics)
    lines = [
        f"# {suite.title}",
        "",
        _md_row(columns),
        _md_row(["---"] * len(columns)),
    ]
    lines += [_md_row(cells(suite, metrics, row)) for row in rows]
    lines += ["", *(f"- {note}" for note in notes(suite, rows))]
    missing = [command for row in rows for command in row.missing]
    if missing:
        lines += [
            "",
            f"{NOT_MEASURED}; `deme reproduce {suite.file}` makes it, or by hand:",
            "",
            "```",
        ]
        lines += [*dict.fromkeys(missing), "```"]
    if compared:
        titles = comparison_header(metrics)
        lines += ["", "## Row against row", "", _md_row(titles), _md_row(["---"] * len(titles))]
        lines += [_md_row(comparison_cells(metrics, rows, one)) for one in compared]
    for parts in part_tables(rows):
        lines += [
            "",
            f"## {parts.title}",
            "",
            _md_row(parts.columns),
            _md_row(["---"] * len(parts.columns)),
        ]
        lines += [_md_row(line) for line in parts.lines]
    return "\n".join(lines) + "\n"


def _md_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def latex(suite: Suite, rows: Sequence[Row]) -> str:
    """Return a booktabs tabular."""

    def line(texts: Sequence[str]) -> str:
        escaped = (
            t.replace("%", r"\%")
            .replace("&", r"\&")
            .replace("#", r"\#")
            .replace("_", r"\_")
            .replace("±", r"$\pm$")
            for t in texts
        )
        return " & ".join(escaped) + r" \\"

    columns = header(suite, suite.settings.metrics)
    body = [line(cells(suite, suite.settings.metrics, row)) for row in rows]
    return (
        "\n".join(
            [
                rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
                r"\toprule",
                line(columns),
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


def comma_separated(rows: Sequence[Row]) -> str:
    """Return one line per row and metric with full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "row",
            "metric",
            "mean",
            "published",
            "std",
            "num_values",
            "num_images",
            "difference",
            "low",
            "high",
            "verdict",
            "forward_passes",
            "reference",
            "implementation",
        ]
    )
    for row in rows:
        for metric, number in row.numbers.items():
            d = number.difference
            writer.writerow(
                [
                    row.name,
                    metric,
                    number.mean,
                    row.expected.get(metric, ""),
                    number.std,
                    number.num_values,
                    number.about["n"],
                    *((d.value, d.low, d.high, d.verdict) if d else ("", "", "", "")),
                    row.forwards,
                    number.about["reference"],
                    number.about["implementation"],
                ]
            )
    return out.getvalue()


def show(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> None:
    """Print the table, and row against row, to standard output."""
    metrics = suite.settings.metrics

    def results(some: Sequence[str]) -> str:
        lines = [cells(suite, some, row) for row in rows]
        return text_table(suite.title, header(suite, some), lines)

    def comparisons(some: Sequence[str]) -> str:
        lines = [comparison_cells(some, rows, one) for one in compared]
        return text_table("Row against row", comparison_header(some), lines, 2)

    for table_of in (results, comparisons) if compared else (results,):
        text = table_of(metrics)
        if "…" in text:  # cut off: one table for each metric
            text = "\n".join(table_of([metric]) for metric in metrics)
        print_result(text)
    if suite.settings.show_parts:
        for parts in part_tables(rows):
            print_result(text_table(parts.title, parts.columns, parts.lines))


def text_table(
    title: str | None, columns: Sequence[str], lines: Sequence[Sequence[str]], num_left: int = 1
) -> str:
    """Return a table for the terminal, its first `num_left` columns aligned to the left."""
    console = Console(width=max(Console().width, 150))
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < num_left else "right")
    for line in lines:
        table.add_row(*line)
    with console.capture() as found:
        console.print(table)
    return found.get().rstrip("\n")
