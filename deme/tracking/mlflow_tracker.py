"""logger=mlflow: one MLflow experiment per suite, in a local database or on a server."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deme.system import check_installed
from deme.tracking.csv_tracker import as_csv
from deme.tracking.record import Point, Record
from deme.tracking.tracker import as_text, exclusive, home_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

TAG = "deme.id"  # finds a run that was sent before
PURPOSE = "sends runs to MLflow"
NO_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)  # characters that MLflow does not allow in a key
MAX_TEXT = 5000  # characters of a parameter or a tag
MAX_KEY = 250
BATCH = 100
T = TypeVar("T")


class Mlflow:
    """Send each run as an MLflow run with the tag deme.id; add what is missing there.

    Without an address everything is in <folder>/mlflow. Raises MissingInput if MLflow is not
    installed.
    """

    keeps_files = True
    is_off = False

    def __init__(
        self, uri: str | None = None, project: str = "deme", folder: str | None = None
    ) -> None:
        for module in ("mlflow", "sqlalchemy", "alembic"):
            check_installed(module, PURPOSE, "mlflow")
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.project, self.folder = project, folder

    def publish(self, record: Record, files: bool = False) -> str:
        """Send a record; return the address or folder of the experiment."""
        home = home_of(self.folder, record, "mlflow")
        with self._alone(home, record):
            sent = _Sent(*self._client(home, record), record)
            sent.add([*record.curve, record.result])
            sent.add_files(files)
            sent.end("FINISHED")
        return self.uri or str(home)

    def live(self, record: Record) -> "_Sent":
        """Begin to send a run that starts."""
        home = home_of(self.folder, record, "mlflow")
        with self._alone(home, record):
            return _Sent(*self._client(home, record), record)

    def _alone(self, home: Path, record: Record) -> contextlib.AbstractContextManager[None]:
        """Wait for other processes, which would create the local database at the same time."""
        return exclusive(home, record.suite) if self.uri is None else contextlib.nullcontext()

    def _client(self, home: Path, record: Record) -> tuple["MlflowClient", str]:
        """Return a client, and the id of the suite's experiment, which is created if necessary."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        place = None
        if self.uri is None:
            home.mkdir(parents=True, exist_ok=True)
            place = (home / "artifacts" / record.suite).as_uri()
        client = MlflowClient(self.uri or f"sqlite:///{home / 'mlflow.db'}")
        name = f"{self.project}/{record.suite}"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return client, found.experiment_id
        return client, client.create_experiment(name, artifact_location=place)


class _Sent:
    """A run at MLflow: what was sent of a record, and what is added."""

    def __init__(self, client: "MlflowClient", experiment: str, record: Record) -> None:
        self.client, self.record = client, record
        self.params = {_key(n): text[:MAX_TEXT] for n, text in as_text(record.config).items()}
        query = f"tags.`{TAG}` = '{record.id}'"
        for run in client.search_runs([experiment], query):
            known = run.data.params
            if all(known.get(name, value) == value for name, value in self.params.items()):
                self.id, self.known = run.info.run_id, {*run.data.metrics}
                break
            client.delete_run(run.info.run_id)  # a parameter cannot be changed
        else:
            began = int(1000 * record.began)
            tags = {TAG: record.id}
            made = client.create_run(experiment, began, tags, record.name)
            self.id, self.known = made.info.run_id, set[str]()
        self._steps: dict[str, set[int]] = {}
        self._describe()

    def _describe(self) -> None:
        from mlflow.entities import Param, RunTag

        record = self.record
        tags = {
            "mlflow.note.content": record.notes,
            "mlflow.source.git.commit": record.commit,
            "group": record.suite,
            "job_type": record.stage,
            **{f"tag.{tag}": "true" for tag in record.tags},
            **record.texts,
        }
        for what, found in (("input", record.inputs), ("output", record.outputs)):
            tags |= {f"{what}.{item.name}": item.sha256 for item in found}
        named = [RunTag(_key(name), text[:MAX_TEXT]) for name, text in as_text(tags).items()]
        params = [Param(name, value) for name, value in self.params.items()]
        for some in _parts(params, BATCH):
            self.client.log_batch(self.id, params=some)
        for others in _parts(named, BATCH):
            self.client.log_batch(self.id, tags=others)

    def add(self, points: Sequence[Point]) -> None:
        """Send the values of steps that were not sent before, and all pictures."""
        for some in _parts(list(self._missing(points)), 10 * BATCH):
            self.client.log_batch(self.id, metrics=some)
        for point in points:
            for name, file in point.images.items():  # the file's name has the step
                self.client.log_artifact(self.id, str(file), f"images/{_key(name)}")

    def _missing(self, points: Sequence[Point]) -> Iterator["Metric"]:
        from mlflow.entities import Metric

        for point in points:
            time = self.record.ended if point.time is None else point.time
            for name, value in point.values.items():
                key = _key(name)
                if point.step not in (steps := self._known_steps(key)):
                    steps.add(point.step)
                    yield Metric(key, float(value), int(1000 * time), point.step)

    def _known_steps(self, key: str) -> set[int]:
        if key not in self._steps:
            found: Any = self.client.get_metric_history(self.id, key) if key in self.known else ()
            self._steps[key] = {metric.step for metric in found}
        return self._steps[key]

    def add_files(self, files: bool) -> None:
        """Send tables and, if requested, the files of the run's outputs."""
        record, client = self.record, self.client
        for name, table in record.tables.items():
            client.log_text(self.id, as_csv(table), f"tables/{_key(name)}.csv")
            for number, row in enumerate(table.rows):
                for place in (cell for cell in row if isinstance(cell, Path)):
                    client.log_artifact(self.id, str(place), f"tables/{_key(name)}/{number:04}")
        for item in record.outputs if files else ():
            for name, place in item.files():
                folder = Path("files", item.name, name).parent.as_posix()
                client.log_artifact(self.id, str(place), folder)

    def end(self, status: str) -> None:
        """Record that the run has ended."""
        self.client.set_terminated(self.id, status, int(1000 * self.record.ended))

    def log(self, point: Point) -> None:
        """Send a point of the curve."""
        self.add([point])

    def close(self, failed: bool) -> None:
        """End a run that was sent during training."""
        self.end("FAILED" if failed else "FINISHED")


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield at most `size` values at a time: a server takes no more at once."""
    yield from (values[start : start + size] for start in range(0, len(values), size))


def _key(name: str) -> str:
    """Return a name in the characters that MLflow allows."""
    return NO_NAME.sub("_", name)[:MAX_KEY]
