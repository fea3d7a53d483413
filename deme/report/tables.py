"""Write a table as Markdown and CSV, and show it on the terminal."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence

from deme.report.escape import csv_text, markdown_block, markdown_code, markdown_text
from deme.report.notes import notes
from deme.report.rows import Comparison, Number, Row
from deme.report.statistics import Difference
from deme.report.terminal import TextTable, fits, text_table
from deme.runs import Suite
from deme.system import JsonObject, digits_for, print_result

NOT_MEASURED = "Not measured yet"
CSV_COLUMNS = [
    "row", "metric", "mean", "published", "std", "num_values", "num_images", "difference", "low",
    "high", "verdict", "num_finetune_seeds", "forward_passes", "reference", "implementation",
]  # fmt: skip
BASE_COLUMNS = [  # of a suite of several bases; sd: standard deviations of one paired difference
    "base", "num_pretrain_seeds", "sd_sampling", "sd_finetuning", "sd_pretraining",
]  # fmt: skip


def header(suite: Suite, metrics: Sequence[str]) -> list[str]:
    """Return the column titles of a table of these metrics."""
    columns = ["row"]
    for metric in metrics:
        if has_published(suite, metric):
            columns.append(f"{metric}, published (measured minus published)")
        columns += [metric, f"difference to {suite.settings.baseline} (95% interval)", "verdict"]
    return [*columns, "training compute"]


def has_published(suite: Suite, metric: str) -> bool:
    """Whether there are published values of a metric."""
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
        texts += [_published_cell(row, metric)] if has_published(suite, metric) else []
        texts += _number_cells(number) if number else ["--", "", ""]
    return [*texts, format_count(row.num_forward_passes)]


def format_count(number: int) -> str:
    """Return a number of forward passes as text, in millions from 0.1 million on."""
    return f"{number / 1e6:.2f}M" if number >= 100_000 else f"{number:,}"


def format_verdict(difference: Difference) -> str:
    """Return the verdict; "(1 seed)" marks a claim about the weights of one finetuning seed."""
    claim = difference.verdict != "not resolved"
    return difference.verdict + (" (1 seed)" if claim and difference.of_one_model else "")


def difference_cells(difference: Difference | None, places: int) -> list[str]:
    """Return a difference with its interval, and its verdict; empty texts where there is none."""
    if difference is None:
        return ["", ""]
    d = difference
    return [f"{d.value:+.{places}f} [{d.low:+.{places}f}, {d.high:+.{places}f}]", format_verdict(d)]


def _number_cells(number: Number) -> list[str]:
    places = digits_for(number.mean)
    value = f"{number.mean:.{places}f}"
    if number.std is not None:
        value += f" ± {number.std:.{places}f}"
    if number.num_values > 1:
        value += f" (n={number.num_values})"
    return [value, *difference_cells(number.difference, places)]


def by_base(suite: Suite, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the parts of a table, a base's name as the heading; "" in a suite without `bases`."""
    settings = suite.settings
    if not settings.bases:
        return [("", [*rows])]
    return [
        (settings.label_of(base), [row for row in rows if row.base == base])
        for base in settings.bases
    ]


def results_table(
    suite: Suite, metrics: Sequence[str], rows: Sequence[Row], base: str = ""
) -> TextTable:
    """Return the table of these metrics, or the part of it that is about one base."""
    lines = [cells(suite, metrics, row) for row in rows]
    return TextTable(_titled(suite.title, base), header(suite, metrics), lines)


def _titled(title: str, base: str) -> str:
    return f"{title}: {base}" if base else title


def comparisons_table(
    metrics: Sequence[str], rows: Sequence[Row], compared: Sequence[Comparison]
) -> TextTable:
    """Return row, other row, and a difference and a verdict per metric."""
    of_bases = any(row.base is not None for row in rows)
    # a base may be far worse than another: digits that show differences of the better ones
    places = {m: digits_for(min(_compared_means(rows, m), key=abs)) for m in metrics}
    columns = [t for m in metrics for t in (f"{m}, difference (95% interval)", "verdict")]
    lines = [
        [one.label, one.other]
        + ([one.base] if of_bases else [])
        + [t for m in metrics for t in difference_cells(one.differences[m], places[m])]
        for one in compared
    ]
    names = ["row", "against", *(["base"] if of_bases else [])]
    return TextTable("Row against row", [*names, *columns], lines)


def _compared_means(rows: Sequence[Row], metric: str) -> list[float]:
    """Return the means of rows with a difference, so not of real data; of all if none has one."""
    numbers = [row.numbers[metric] for row in rows if metric in row.numbers]
    return [x.mean for x in numbers if x.difference] or [x.mean for x in numbers] or [0.0]


def part_tables(rows: Sequence[Row], base: str = "") -> list[TextTable]:
    """Return a table for each metric that has parts, in the order in which they were measured.

    Parts are the loss in each range of timesteps, or a score in each kind of prompt. A table has a
    line per row and a column per part.
    """
    names = dict.fromkeys(name for row in rows for name in row.numbers if "/" in name)
    about = {n: next(row.numbers[n].about for row in rows if n in row.numbers) for n in names}
    tables = [
        _part_table(
            rows, metric, {name: of for name, of in about.items() if name.split("/")[0] == metric}
        )
        for metric in dict.fromkeys(name.partition("/")[0] for name in about)
    ]
    return [table._replace(title=_titled(table.title, base)) for table in tables]


def _part_table(rows: Sequence[Row], metric: str, parts: Mapping[str, JsonObject]) -> TextTable:
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
        change = f" ({share:+.2%}, {format_verdict(number.difference)})"
    return f"{number.mean:.{digits_for(number.mean)}f}{change}"


def markdown(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> str:
    """Return the table, its notes, row against row, and the commands for what is missing."""
    metrics = suite.settings.metrics
    parts = [f"# {markdown_text(suite.title)}"]
    for base, found in by_base(suite, rows):
        parts += [f"## {markdown_text(base)}"] if base else []
        parts += [_md_table(results_table(suite, metrics, found))]
    parts += ["\n".join(f"- {markdown_text(note)}" for note in notes(suite, rows))]
    missing = dict.fromkeys(command for row in rows for command in row.missing)
    if missing:
        command = markdown_code(f"deme reproduce {suite.file}")
        parts += [f"{NOT_MEASURED}; {command} makes it, or by hand:", markdown_block([*missing])]
    tables = [comparisons_table(metrics, rows, compared)] if compared else []
    tables += [each for base, found in by_base(suite, rows) for each in part_tables(found, base)]
    for table in tables:
        parts += [f"## {markdown_text(table.title)}", _md_table(table)]
    return "\n\n".join(parts) + "\n"


def _md_table(table: TextTable) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.lines]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)


def comma_separated(suite: Suite, rows: Sequence[Row]) -> str:
    """Return one line per row and metric with full precision."""
    several = suite.settings.several_bases
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *(BASE_COLUMNS if several else [])])
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
                    *(_base_columns(row, d) if several else []),
                ]
            )
    return out.getvalue()


def _base_columns(row: Row, d: Difference | None) -> list[object]:
    spread = d.spread if d is not None else None
    sds = (spread.sampling, spread.finetuning, spread.pretraining) if spread else ("", "", "")
    texts = [row.base, d.num_pretrain_seeds if d else None, *sds]
    return ["" if text is None else text for text in texts]


def show(suite: Suite, rows: Sequence[Row], compared: Sequence[Comparison] = ()) -> None:
    """Print the table and the comparisons between rows to standard output.

    A table that is wider than the terminal is split into one table per metric.
    """
    of_bases = any(row.base is not None for row in rows)

    def part(base: str, found: Sequence[Row]) -> Callable[[Sequence[str]], TextTable]:
        return lambda metrics: results_table(suite, metrics, found, base)

    metrics = suite.settings.metrics
    parts = [(part(base, found), 1) for base, found in by_base(suite, rows)]
    if compared:
        parts.append((lambda names: comparisons_table(names, rows, compared), 2 + of_bases))
    for table_of, num_left in parts:
        whole = fits(*table_of(metrics)[1:], num_left)
        for names in [metrics] if whole else [[metric] for metric in metrics]:
            print_result(text_table(*table_of(names), num_left))
    for base, found in by_base(suite, rows) if suite.settings.show_parts else ():
        for table in part_tables(found, base):
            print_result(text_table(*table))
