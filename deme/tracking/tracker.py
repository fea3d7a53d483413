"""The interface of trackers, and how one is made from a `logger` option."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from deme.runs import Option, check_option, instantiate
from deme.system import BadConfig, expanded, locked, logger
from deme.tracking.record import Point, Record


class Live(Protocol):
    """A run that is sent during its work."""

    def log(self, point: Point) -> None:
        """Send a point of the curve."""

    def close(self, failed: bool) -> None:
        """End; what is published later replaces what was sent."""


class Tracker(Protocol):
    """A destination to which runs are sent.

    `keeps_files`: whether it can store the files of artifacts. `is_off`: whether it sends nothing.
    """

    keeps_files: bool
    is_off: bool

    def publish(self, record: Record, files: bool = False) -> str:
        """Send a record, replacing what was sent of the run before; return its address or folder.

        `files`: also send the files of artifacts.
        """

    def live(self, record: Record) -> Live | None:
        """Begin to send a run that starts; None if the tracker sends only finished runs."""


class LightningLogger(Protocol):
    """The methods of a Lightning logger that are used, which sends live curves only."""

    def log_hyperparams(self, params: dict[str, object]) -> None:
        """Record the configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Record the values of a step."""

    def finalize(self, status: str) -> None:
        """End."""


class LiveCurves:
    """A Lightning logger as a tracker: live curves of trainings, nothing afterwards."""

    keeps_files = False
    is_off = False

    def __init__(self, lightning: LightningLogger) -> None:
        self.lightning = lightning

    def publish(self, record: Record, files: bool = False) -> str:  # noqa: ARG002
        """Send nothing: what was sent during the run cannot be replaced."""
        return ""

    def live(self, record: Record) -> Live:
        """Begin by sending the configuration."""
        self.lightning.log_hyperparams(dict(record.config))
        return self

    def log(self, point: Point) -> None:
        """Send a point of the curve."""
        self.lightning.log_metrics(dict(point.values), point.step)

    def close(self, failed: bool) -> None:
        """End."""
        self.lightning.finalize("failed" if failed else "success")


def make_tracker(option: Option | None, trains: bool) -> Tracker | None:
    """Return the tracker of a `logger` option, None for none.

    `trains`: whether the run has curves to send during training. Raises BadConfig, and MissingInput
    for a library that is not installed.
    """
    if option is None:
        return None
    check_option("logger", option)
    made = instantiate(option)
    if hasattr(made, "publish"):
        tracker: Tracker = made
        return tracker
    if not hasattr(made, "log_metrics"):
        raise BadConfig(
            f"logger._target_={option['_target_']} is not a logger: it has no method log_metrics\n"
            "type: logger=<option>"
        )
    if not trains:
        raise BadConfig(
            f"logger._target_={option['_target_']} takes live curves of deme train only\n"
            "type: logger=none, or another logger"
        )
    return LiveCurves(made)


def home_of(folder: str | None, record: Record, name: str) -> Path:
    """Return the folder into which the tracker `name` writes; `folder`: the user's, if given."""
    return (record.home if folder is None else expanded(folder)).absolute() / name


@contextlib.contextmanager
def exclusive(folder: Path, name: str) -> Iterator[None]:
    """Let one process at a time write `name` into `folder`."""

    def wait(owner: str) -> None:
        logger.info("%s is writing %s into %s; waiting", owner, name, folder)

    with locked(folder / f".{name}.lock", wait, remove=True):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, which are about how a tracker's library uses others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_text(values: Mapping[str, object]) -> dict[str, str]:
    """Return values as texts; None becomes an empty text."""
    return {name: "" if value is None else str(value) for name, value in values.items()}
