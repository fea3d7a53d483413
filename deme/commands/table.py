"""`deme table`: write the table and figures of the runs that are done.

What is not measured yet is shown as `--`, with the command that measures it.
"""

from typing import TYPE_CHECKING

from deme.report import tables
from deme.report.rows import Comparison, Row, comparisons, table_rows
from deme.runs.suite import Suite
from deme.system import files, logger, print_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(suite: Suite) -> int:
    """Print the table and write it with its figures to the folder `results`; return 0."""
    rows = table_rows(suite)
    compared = comparisons(suite)
    tables.show(suite, rows, compared)
    for note in tables.notes(suite, rows):
        print_result(f"  {note}")
    missing = list(dict.fromkeys(command for row in rows for command in row.missing))
    if missing:
        count = sum(len(row.missing) for row in rows)
        print_result(
            f"{count} evaluations are not measured yet; type:\n  {missing[0]}\n"
            f"or for all of them: deme reproduce {suite.file}"
        )
    page = suite.results / f"{suite.name}.md"
    if missing and page.exists() and tables.NOT_MEASURED not in page.read_text():
        logger.warning("kept %s: the table there is complete, this one is not", suite.results)
        return 0
    _write(suite, rows, compared)
    return 0


def _write(suite: Suite, rows: list[Row], compared: list[Comparison]) -> None:
    folder, name = suite.results, suite.name
    texts = {
        f"{name}.md": tables.markdown(suite, rows, compared),
        f"{name}.tex": tables.latex(suite, rows),
        f"{name}.csv": tables.comma_separated(rows),
    }
    for file, text in texts.items():
        files.write_text(folder / file, text)
    pictures = _pictures(suite, rows)
    for file, figure in pictures.items():
        from deme.report.figures import png

        files.write_bytes(folder / file, png(figure))
    print_result(f"wrote {folder}/{{{','.join([*texts, *pictures])}}}")


def _pictures(suite: Suite, rows: list[Row]) -> dict[str, "Figure"]:
    """Return the figures that the rows have numbers for, by file name."""
    grids = any(row.grid for row in rows)
    paired = [name for row in rows for name, number in row.numbers.items() if number.difference]
    balanced = {row.label: row.balanced for row in rows if row.balanced}
    if not (grids or paired or balanced):
        return {}
    from deme.report import figures

    found = {"samples.png": figures.sample_grids(rows)} if grids else {}
    if paired:
        settings = suite.settings
        found["differences.png"] = figures.differences(rows, settings.metrics, settings.baseline)
    if any("/" in metric for metric in paired):
        found["loss_per_range.png"] = figures.loss_per_range(rows)
    if balanced:
        from deme.analysis import task_weights

        found["task_weights.png"] = task_weights.draw(balanced)
    return found
