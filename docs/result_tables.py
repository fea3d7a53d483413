"""The tables of measured results in the pages: written from the CSV of a suite, never by hand.

A page says what it shows in a comment, and the table stands between the comment and its end:

    <!-- results
    suite: experiments/digits
    rows: [before, finetune]              # without it: all rows of the table
    columns:
      fd_digits: mean fd_digits           # title: what, metric; @<base> in a suite of several bases
      difference: difference fd_digits
      verdict: verdict fd_digits
    -->
    <!-- end of the results -->

What: `mean` (± standard deviation, number of values), `difference` to the baseline with its
interval, its `verdict`, `both` in one cell, or `compute` (of training, no metric).

With `comparisons: [[merged, routed], ...]` in place of rows, a line is the difference of a row to
another, which the suite compares, and a column is <metric> or <metric>@<base>.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from deme.report.differences import read_difference
from deme.report.escape import markdown_text
from deme.report.tables import difference_cells, format_count
from deme.runs import Suite
from deme.system import digits_for

ROOT = Path(__file__).parent.parent
END = "<!-- end of the results -->"
PART = re.compile(rf"(<!-- results\n(.*?)-->\n)(.*?)({re.escape(END)}\n)", re.DOTALL)
Line = Mapping[str, str]  # a line of the CSV: the name of a column -> its text
Key = tuple[str, str, str]  # row, metric, base


def pages_with_results() -> dict[Path, str]:
    """Return every page that shows results, with its tables as the CSV files have them now."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*/README.md")]
    texts = {file: file.read_text() for file in files}
    return {
        file: PART.sub(lambda part: f"{part[1]}\n{results_table(part[2])}\n{part[4]}", text)
        for file, text in texts.items()
        if PART.search(text)
    }


def results_table(description: str) -> str:
    """Return the table that a comment describes.

    Raises ValueError for a row that the suite does not have.
    """
    wanted = yaml.safe_load(description)
    suite = Suite.read(ROOT / wanted["suite"], ROOT / "runs")
    labels = {row.name: row.label for row in suite.settings.rows}
    if "comparisons" in wanted:
        return _comparisons(suite, labels, wanted["comparisons"], wanted["columns"])
    lines = _csv(suite.file.parent / "results" / f"{suite.name}.csv")
    rows = wanted.get("rows") or list(dict.fromkeys(row for row, _, _ in lines))
    if unknown := [name for name in rows if name not in labels]:
        raise ValueError(f"{wanted['suite']} has no rows {unknown}")
    columns = wanted["columns"]
    table = [["row", *columns], ["---"] * (1 + len(columns))]
    table += [[labels[n], *(_cell(lines, n, of) for of in columns.values())] for n in rows]
    return _markdown(table)


def _markdown(table: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(map(markdown_text, line))} |\n" for line in table)


def _comparisons(
    suite: Suite,
    labels: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    columns: Mapping[str, str],
) -> str:
    """Return the differences of rows to rows, from the table of them that the suite wrote.

    Raises ValueError for a pair that the suite does not compare.
    """
    text = (suite.file.parent / "results" / f"{suite.name}.md").read_text()
    head, _, *lines = text.partition("## Row against row\n\n")[2].partition("\n\n")[0].splitlines()
    titles = _cells(head)
    found = {}
    for line in map(_cells, lines[1:]):
        base = line[titles.index("base")] if "base" in titles else ""
        found[line[0], line[1], base] = line
    bases = {name: suite.settings.label_of(name) for name in suite.settings.bases or ()}
    table = [["row", "against", *columns], ["---"] * (2 + len(columns))]
    for pair in pairs:
        row, other = (labels.get(name, "") for name in pair)
        if not any(line[:2] == (row, other) for line in found):
            raise ValueError(f"{suite.name} does not compare {' with '.join(pair)}")
        cells = []
        for column in columns.values():
            metric, _, base = column.partition("@")
            place = titles.index(f"{metric}, difference (95% interval)")
            line = found[row, other, bases.get(base, "")]
            cells.append(f"{line[place]}, {line[place + 1]}")
        table.append([row, other, *cells])
    return _markdown(table)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _csv(file: Path) -> dict[Key, Line]:
    """Return the lines of a table by row, metric and base ("" in a suite of one base)."""
    with file.open(newline="") as opened:
        return {(x["row"], x["metric"], x.get("base") or ""): x for x in csv.DictReader(opened)}


def _cell(lines: Mapping[Key, Line], row: str, wanted: str) -> str:
    """Return the text of one cell; empty where the table has no such number."""
    what, _, metric = wanted.partition(" ")
    metric, _, base = metric.partition("@")
    if what == "compute":
        of_row = [x for (name, _, at), x in lines.items() if name == row and at == base]
        return format_count(int(of_row[0]["forward_passes"])) if of_row else ""
    line = lines.get((row, metric, base))
    if line is None:
        return ""
    places = digits_for(float(line["mean"]))
    if what == "mean":
        spread = f" ± {float(line['std']):.{places}f}" if line["std"] else ""
        number = f" (n={line['num_values']})" if int(line["num_values"]) > 1 else ""
        return f"{float(line['mean']):.{places}f}{spread}{number}"
    difference, verdict = difference_cells(read_difference(line), places)
    both = f"{difference}, {verdict}" if difference else ""
    return {"difference": difference, "verdict": verdict, "both": both}[what]
