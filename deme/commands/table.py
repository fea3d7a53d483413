"""`deme table`: from the runs of a suite to its table and pictures; what is missing prints as `--` with its command."""

from deme.report import tables
from deme.report.rows import Comparison, Row, comparisons, table_rows
from deme.runs.run import say
from deme.runs.suite import Suite
from deme.system import files


def run(suite: Suite) -> int:
    """Write <results>/<suite>.{md,tex,csv}, samples.png, differences.png, loss_per_range.png, task_weights.png; return 0."""
    rows = table_rows(suite)
    compared = comparisons(suite)
    tables.show(suite, rows, compared)
    for note in tables.notes(suite, rows):
        say(f"  {note}")
    missing = list(dict.fromkeys(command for row in rows for command in row.missing))
    if missing:
        count = sum(len(row.missing) for row in rows)
        say(
            f"{count} evaluations are not measured yet; next:\n  {missing[0]}\nor all: deme reproduce {suite.file}"
        )
    page = suite.results / f"{suite.name}.md"
    if missing and page.exists() and tables.NOT_MEASURED not in page.read_text():
        say(f"kept {suite.results}: the table there is complete, this one is not")
        return 0
    _write(suite, rows, compared)
    return 0


def _write(suite: Suite, rows: list[Row], compared: list[Comparison]) -> None:
    folder, name = suite.results, suite.name
    written = [f"{name}.md", f"{name}.tex", f"{name}.csv"]
    for file, text in zip(
        written,
        (
            tables.markdown(suite, rows, compared),
            tables.latex(suite, rows),
            tables.comma_separated(rows),
        ),
        strict=True,
    ):
        files.write_text(folder / file, text)
    if any(row.grid for row in rows):
        from deme.report import figures

        files.write_bytes(folder / "samples.png", figures.png(figures.sample_grids(rows)))
        written.append("samples.png")
    if any(number.difference for row in rows for number in row.numbers.values()):
        from deme.report import figures

        drawn = figures.differences(rows, suite.settings.metrics, suite.settings.baseline)
        files.write_bytes(folder / "differences.png", figures.png(drawn))
        written.append("differences.png")
    if any(
        "/" in metric and number.difference
        for row in rows
        for metric, number in row.numbers.items()
    ):
        from deme.report import figures

        files.write_bytes(folder / "loss_per_range.png", figures.png(figures.loss_per_range(rows)))
        written.append("loss_per_range.png")
    balanced = {row.label: row.balanced for row in rows if row.balanced}
    if balanced:
        from deme.analysis import task_weights
        from deme.report import figures

        files.write_bytes(folder / "task_weights.png", figures.png(task_weights.draw(balanced)))
        written.append("task_weights.png")
    say(f"wrote {folder}/{{{','.join(written)}}}")
