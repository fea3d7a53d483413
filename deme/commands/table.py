"""`deme table`: write the table and figures of the runs that are done.

What is not measured yet is shown as `--`, with the command that measures it.
"""

from pathlib import Path

from deme.report import tables
from deme.report.latex import latex
from deme.report.notes import notes
from deme.report.rows import Comparison, Row, SuiteResults
from deme.runs import Suite, SuiteOptions
from deme.system import BadConfig, files, locked, logger, print_result

PICTURES = ("samples.png", "differences.png", "loss_per_range.png", "task_weights.png")
TABLE_MARKS = {".md": "| row |", ".tex": r"\begin{tabular}", ".csv": "row,metric"}


def run(suite: Suite, options: SuiteOptions | None = None) -> None:  # noqa: ARG001
    """Print the table and write it with its figures to the folder `results`."""
    found = SuiteResults(suite)
    rows, compared = found.rows(), found.comparisons()
    tables.show(suite, rows, compared)
    for note in notes(suite, rows):
        print_result(f"  {note}")
    missing = list(dict.fromkeys(command for row in rows for command in row.missing))
    if missing:
        count = sum(len(row.missing) for row in rows)
        print_result(
            f"{count} evaluations are not measured yet; type:\n  {missing[0]}\n"
            f"or for all of them: deme reproduce {suite.file}"
        )
    _check_replaced(suite)
    page = suite.results / f"{suite.name}.md"
    lock = page.with_name(f".{suite.name}.lock")
    with locked(lock, lambda owner: logger.info("%s is writing the table", owner), remove=True):
        files.remove_leftovers(suite.results)
        if (
            missing
            and page.exists()
            and tables.NOT_MEASURED not in page.read_text(errors="replace")
        ):
            logger.warning("kept %s: the table there is complete, this one is not", suite.results)
        else:
            _write(suite, rows, compared)


def _write(suite: Suite, rows: list[Row], compared: list[Comparison]) -> None:
    """Write what is missing or has changed; pictures take longer than all the rest."""
    folder, numbers = suite.results, suite.results / f"{suite.name}.csv"
    table = tables.comma_separated(suite, rows)
    unchanged = numbers.is_file() and numbers.read_bytes() == table.encode()
    pictures = {
        _file_name(picture, base): (picture, [row for row in rows if row.base == base])
        for base in suite.settings.starts
        for picture in _pictures([row for row in rows if row.base == base])
    }
    for file, (picture, found) in pictures.items():
        if not (unchanged and (folder / file).is_file()):
            files.write_bytes(folder / file, _drawn(picture, suite, found))
    texts = {
        f"{suite.name}.md": tables.markdown(suite, rows, compared),
        f"{suite.name}.tex": latex(suite, rows),
        numbers.name: table,  # last: its numbers are those of the pictures
    }
    for file, text in texts.items():
        files.write_text(folder / file, text)
    print_result(f"wrote {folder}/{{{','.join([*texts, *pictures])}}}")


def _file_name(picture: str, base: str | None) -> str:
    """Return the name of a picture of a base's part of the table, <picture>-<base>.png."""
    return picture if base is None else f"{Path(picture).stem}-{base}.png"


def _check_replaced(suite: Suite) -> None:
    """Raise BadConfig for a file that would be replaced and is no table: a suite names both."""
    folder, name = suite.results, suite.name
    for suffix, mark in TABLE_MARKS.items():
        file = folder / f"{name}{suffix}"
        if file.exists() and mark not in file.read_text(errors="replace"):
            raise BadConfig(
                f"{file} is not a table of deme, and the table would replace it\n"
                "type: results=<another folder>, or move the file away"
            )
    numbers = (file.read_text(errors="replace") for file in folder.glob("*.csv"))
    if any(TABLE_MARKS[".csv"] in text for text in numbers):
        return  # the pictures next to a table belong to it
    names = [_file_name(picture, base) for picture in PICTURES for base in suite.settings.starts]
    for picture in (folder / name for name in names):
        if picture.exists() and not _is_own(picture):
            raise BadConfig(
                f"{picture} is not a picture of a table, and this table would replace it\n"
                "type: results=<another folder>, or move the file away"
            )


def _is_own(picture: Path) -> bool:
    from deme.report.figures import is_own

    return is_own(picture)


def _pictures(rows: list[Row]) -> list[str]:
    """Return the names of the pictures that the rows have numbers for."""
    paired = [name for row in rows for name, number in row.numbers.items() if number.difference]
    wanted = {
        "samples.png": any(row.grid for row in rows),
        "differences.png": bool(paired),
        "loss_per_range.png": any("/" in metric for metric in paired),
        "task_weights.png": any(row.balanced for row in rows),
    }
    return [file for file, is_wanted in wanted.items() if is_wanted]


def _drawn(file: str, suite: Suite, rows: list[Row]) -> bytes:
    from deme.report import figures

    if file == "task_weights.png":
        from deme.analysis import task_weights

        balanced = {row.label: row.balanced for row in rows if row.balanced}
        return figures.png(task_weights.draw(balanced))
    if file == "samples.png":
        return figures.png(figures.sample_grids(rows))
    if file == "loss_per_range.png":
        return figures.png(figures.loss_per_range(rows))
    settings = suite.settings
    return figures.png(figures.differences(rows, settings.metrics, settings.baseline))
