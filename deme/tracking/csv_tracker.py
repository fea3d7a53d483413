"""logger=csv: a folder of CSV files per run, for spreadsheets and pandas."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from deme.report.escape import csv_text
from deme.system import files as disk
from deme.tracking.record import CellValue, Record, Table
from deme.tracking.tracker import exclusive, home_of


class Csv:
    """Write each run into <folder>/csv/<id>/, replacing earlier files.

    run.csv has one line with the description, configuration and results of the run. curve.csv has a
    line per step, artifacts.csv one per input and output, images.csv one per picture, and every
    table has a file of its own.
    """

    keeps_files = False
    is_off = False

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def live(self, record: Record) -> None:
        """Send nothing during the run, whose metrics.jsonl has the same content."""

    def publish(self, record: Record, files: bool = False) -> str:  # noqa: ARG002
        """Write the files of a record; return the folder of all runs."""
        home = home_of(self.folder, record, "csv")

        def fill(folder: Path) -> None:
            for name, table in tables_of(record).items():
                disk.write_bytes(folder / f"{name}.csv", as_csv(table).encode(), sync=False)

        with exclusive(home, record.id):
            disk.write_folder(home / record.id, fill)
        return str(home)


def tables_of(record: Record) -> dict[str, Table]:
    """Return a record as tables by name."""
    about = {
        "id": record.id,
        "name": record.name,
        "group": record.suite,
        "job_type": record.stage,
        "tags": " ".join(record.tags),
        "notes": record.notes,
        "commit": record.commit,
        **{f"config.{name}": value for name, value in record.config.items()},
        **record.summary,
    }
    keys = list(dict.fromkeys(name for point in record.curve for name in point.values))
    lines = [
        (point.step, point.time, *(point.values.get(name) for name in keys))
        for point in record.curve
    ]
    found = {
        "run": Table(tuple(about), [[_plain(value) for value in about.values()]]),
        "curve": Table(("step", "time", *keys), lines),
        "artifacts": record.artifacts,
        "images": Table(("name", "step", "file"), _images(record)),
    }
    return {name: table for name, table in found.items() if table.rows} | dict(record.tables)


def _images(record: Record) -> list[tuple[str, int, Path]]:
    """Return all pictures with their steps, the final ones last."""
    return [
        (name, point.step, file)
        for point in (*record.curve, record.result)
        for name, file in point.images.items()
    ]


def _plain(value: object) -> CellValue:
    return value if isinstance(value, (str, int, float)) or value is None else str(value)


def as_csv(table: Table) -> str:
    """Return a table as CSV. No text is a spreadsheet formula; pictures are written as paths."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_text(name) for name in table.columns])
    writer.writerows(map(_line, table.rows))
    return out.getvalue()


def _line(cells: Sequence[CellValue]) -> Iterable[object]:
    return [csv_text(cell) if isinstance(cell, (str, Path)) else cell for cell in cells]
