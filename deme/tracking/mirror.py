"""Send a run to a tracker: the curve during training, everything at its end."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deme.runs import Option
from deme.system import BadConfig, DemeError, WorkFailed, first_line, logger
from deme.tracking.curves import Row, training_point
from deme.tracking.read import read_record
from deme.tracking.record import Record
from deme.tracking.tracker import Live, Tracker, make_tracker, quiet

T = TypeVar("T")


class Mirror:
    """Sends runs to a tracker; without a tracker nothing is sent.

    If the tracker fails during a run, a warning is logged; if it fails after the run, WorkFailed is
    raised, and the run is done.
    """

    def __init__(self, tracker: Tracker | None = None, name: str = "") -> None:
        self.tracker, self.name = tracker, name
        self._live: Live | None = None
        self._run = Path()

    @classmethod
    def of(cls, option: Option | None, trains: bool = False) -> "Mirror":
        """Return the mirror of a `logger` option. Raises BadConfig, MissingInput.

        `trains`: whether the run has curves to send during training.
        """
        name = str((option or {}).get("_target_", "")).rpartition(".")[2]
        return cls(make_tracker(option, trains), name.lower())

    @property
    def is_off(self) -> bool:
        """Whether nothing is sent."""
        return self.tracker is None or self.tracker.is_off

    def start(self, run: Path) -> None:
        """Begin to send the curve of a run that starts."""
        if (tracker := self.tracker) is not None:
            self._run = run
            self._live = self._tried(lambda: tracker.live(read_record(run)))

    def log(self, row: Row) -> None:
        """Send a row of the curve of the current run."""
        if (live := self._live) is not None:
            self._tried(lambda: live.log(training_point(row, self._run)))

    def stop(self, failed: bool = False) -> None:
        """End what `start` began, if anything."""
        if (live := self._live) is not None:
            self._tried(lambda: live.close(failed))
            self._live = None

    def _tried(self, send: Callable[[], T]) -> T | None:
        """Call `send`; after an error nothing more is sent during the run."""
        try:
            with quiet():
                return send()
        except Exception as error:  # whatever a tracker's library raises: the work goes on
            self._live = None
            logger.warning(
                "%s: the live curve ends here: %s (everything is sent when the run is done)",
                self.name,
                first_line(error),
            )
            return None

    def publish(self, run: Path, files: bool = False) -> str:
        """Send a finished run; return its address or folder, "" if nothing is sent."""
        place = "" if self.tracker is None else self.send(read_record(run), files)
        if place:
            logger.info("published to %s", place)
        return place

    def send(self, record: Record, files: bool = False) -> str:
        """Send a record; return its address or folder. Raises WorkFailed."""
        if self.tracker is None:
            return ""
        if files and not self.tracker.keeps_files:
            raise BadConfig(f"logger={self.name} keeps no files of weights\ntype: files=false")
        try:
            with quiet():
                return self.tracker.publish(record, files)
        except DemeError:
            raise
        except Exception as error:  # of a tracker's library
            raise WorkFailed(
                f"{record.name} is done, and {self.name} does not accept it: {first_line(error)}\n"
                f"to try again, type: deme publish <run directory> logger={self.name}"
            ) from error
