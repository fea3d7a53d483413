"""logger=tensorboard: event files, written without TensorFlow and torch."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deme.report.escape import markdown_text
from deme.system import check_installed
from deme.system import files as disk
from deme.tracking.record import CellValue, Point, Record, Table
from deme.tracking.tracker import as_text, exclusive, home_of

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

LIVE, DONE = "events.out.tfevents.1.live", "events.out.tfevents.2.done"
VERSION = "brain.Event:2"  # of the file format


class TensorBoard:
    """Write each run into <folder>/tensorboard/<id>/, replacing earlier files.

    Raises MissingInput if TensorBoard is not installed.
    """

    keeps_files = False
    is_off = False

    def __init__(self, folder: str | None = None) -> None:
        check_installed("tensorboard", "writes event files", "tensorboard")
        self.folder = folder

    def publish(self, record: Record, files: bool = False) -> str:  # noqa: ARG002
        """Write the events of a record; return the folder of all runs."""
        home = home_of(self.folder, record, "tensorboard")

        def fill(folder: Path) -> None:
            with open(folder / DONE, "wb") as file:
                for event in events_of(record):
                    _write(file, event)

        with exclusive(home, record.id):
            disk.write_folder(home / record.id, fill)
        return str(home)

    def live(self, record: Record) -> "LiveEvents":
        """Begin to write the events of a run that starts."""
        folder = home_of(self.folder, record, "tensorboard") / record.id
        with exclusive(folder.parent, record.id):
            disk.write_folder(folder, lambda new: (new / LIVE).touch())
        return LiveEvents(folder / LIVE, record)


class LiveEvents:
    """A file of events that is written during a run."""

    def __init__(self, place: Path, record: Record) -> None:
        self.record = record
        self.file = open(place, "ab")  # noqa: SIM115 (closed by close)
        _write(self.file, _event(record.began, file_version=VERSION))

    def log(self, point: Point) -> None:
        """Write a point of the curve."""
        for event in _events_of_point(self.record, point):
            _write(self.file, event)
        self.file.flush()

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Close the file."""
        self.file.close()


def events_of(record: Record) -> Iterator["Event"]:
    """Yield the events of a record; equal records give equal events."""
    yield _event(record.began, file_version=VERSION)
    yield _event(record.began, **_hyperparameters(record))
    for point in record.curve:
        yield from _events_of_point(record, point)
    yield from _events_of_point(record, record.result)
    about = {"id": record.id, "commit": record.commit or "", "notes": record.notes}
    about |= {"tags": ", ".join(record.tags), **record.texts}
    yield _text(record, "run", _markdown(Table(("key", "value"), list(about.items()))))
    config = list(as_text(record.config).items())
    yield _text(record, "config", _markdown(Table(("key", "value"), config)))
    if record.artifacts.rows:
        yield _text(record, "artifacts", _markdown(record.artifacts))
    for name, table in record.tables.items():
        yield _text(record, name, _markdown(table))
        for title, file in _pictures(table):
            yield _picture(record, f"{name}/{title}", file, record.last_step)


def _pictures(table: Table) -> Iterator[tuple[str, Path]]:
    """Yield the pictures of a table, named by the row and its seeds, such as p2/seed 0."""
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        numbers = [f"{name} {cell}" for name, cell in cells.items() if isinstance(cell, int)]
        name = "/".join([str(row[0]), *numbers])
        yield from ((name, cell) for cell in row if isinstance(cell, Path))


def _write(file: Any, event: "Event") -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(file).write(event.SerializeToString())


def _event(time: float, **content: Any) -> "Event":
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=time, **content)


def _summary(record: Record, step: int, time: float | None, **value: Any) -> "Event":
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(**value)])
    return _event(record.ended if time is None else time, step=step, summary=summary)


def _events_of_point(record: Record, point: Point) -> Iterator["Event"]:
    """Yield the numbers and the pictures of a step."""
    for name, value in point.values.items():
        yield _summary(record, point.step, point.time, tag=name, simple_value=value)
    for name, file in point.images.items():
        yield _picture(record, name, file, point.step, point.time)


def _picture(
    record: Record, name: str, file: Path, step: int, time: float | None = None
) -> "Event":
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(file, formats=["PNG"]) as opened:
        width, height = opened.size
    image = Summary.Image(height=height, width=width, encoded_image_string=file.read_bytes())
    return _summary(record, step, time, tag=name, image=image)


def _text(record: Record, name: str, text: str) -> "Event":
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[text.encode()])
    about = create_summary_metadata(name, "")
    return _summary(record, record.last_step, record.ended, tag=name, tensor=tensor, metadata=about)


def _hyperparameters(record: Record) -> dict[str, Any]:
    """Return the configuration for TensorBoard's table and parallel coordinates."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, create_summary_metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(group_name=record.id, start_time_secs=record.began)
    for name, value in record.config.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, (int, float)):
            start.hparams[name].number_value = value
        elif value is not None:
            start.hparams[name].string_value = str(value)
    about = create_summary_metadata(HParamsPluginData(session_start_info=start))
    value = Summary.Value(tag=SESSION_START_INFO_TAG, metadata=about)
    return {"summary": Summary(value=[value])}


def _markdown(table: Table) -> str:
    """Return a table as Markdown."""

    def line(cells: Any) -> str:
        return f"| {' | '.join(map(_cell, cells))} |"

    head = [line(table.columns), line(["---"] * len(table.columns))]
    return "\n".join([*head, *map(line, table.rows)])


def _cell(cell: CellValue) -> str:
    if isinstance(cell, Path):
        return markdown_text(os.path.basename(cell))  # noqa: PTH119
    return cell if cell == "---" else markdown_text("" if cell is None else cell)
