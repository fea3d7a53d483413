"""logger=wandb: Weights & Biases, offline by default; it never prompts for input."""

import contextlib
import json
import netrc
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import urlparse

from deme.system import BadConfig, MissingInput
from deme.tracking.record import Artifact, CellValue, Point, Record, Table
from deme.tracking.tracker import exclusive, home_of

if TYPE_CHECKING:
    import wandb
    from wandb.sdk.wandb_run import Run

Mode = Literal["online", "offline", "disabled"]
MODES = {**dict.fromkeys(get_args(Mode)), "dryrun": "offline", "run": "online"}
SERVER = "https://api.wandb.ai"
CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
HOW_TO_LOG_IN = "type: wandb login, or set WANDB_API_KEY"


class Wandb:
    """Send each run with a fixed id, replacing what was sent of it before.

    Offline, all runs of a suite are in <folder>/wandb/offline-run-*, which `wandb sync` uploads.
    Raises MissingInput for mode=online without an API key.
    """

    keeps_files = True

    def __init__(
        self,
        project: str = "deme",
        entity: str | None = None,
        mode: Mode | None = None,
        folder: str | None = None,
    ) -> None:
        self.project, self.entity, self.folder = project, entity, folder
        self.mode = resolved_mode(mode)
        self.is_off = self.mode == "disabled"
        if self.mode == "online" and not has_credentials():
            raise MissingInput(
                "logger.mode=online needs an API key of Weights & Biases, and none is set\n"
                f"{HOW_TO_LOG_IN}; or logger.mode=offline"
            )

    def publish(self, record: Record, files: bool = False) -> str:
        """Send a record; return the folder of all runs, or the address of the run."""
        if self.is_off:
            return ""
        home = home_of(self.folder, record, "wandb")
        with exclusive(home, record.id), self._own_files(home, record):
            run = self._opened(home, record)
            with _finished(run):
                for point in record.curve:
                    _log(run, point)
                run.summary.update(dict(record.summary))
                if media := _media(record):
                    run.log({**media, "_timestamp": record.ended}, step=record.last_step)
                for item in record.outputs:
                    run.log_artifact(_artifact(item, files))
                for item in record.inputs:
                    self._use(run, _artifact(item, files))
            return str(run.url if self.mode == "online" else home)

    def live(self, record: Record) -> "LiveRun | None":
        """Begin to send a run that starts."""
        if self.is_off:
            return None
        home = home_of(self.folder, record, "wandb")
        with exclusive(home, record.id), self._own_files(home, record):
            return LiveRun(self._opened(home, record))

    def _opened(self, home: Path, record: Record) -> "Run":
        """Open the run of a record, replacing an earlier one with its id."""
        if self.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        for earlier in home.glob(f"offline-run-*-{record.id}"):
            second = earlier.name.removeprefix("offline-run-").removesuffix(f"-{record.id}")
            shutil.rmtree(earlier, ignore_errors=True)
            while time.strftime("%Y%m%d_%H%M%S") == second:  # which names the folder: a new one
                time.sleep(0.05)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=home.parent,  # wandb adds the folder wandb/
            id=record.id,
            name=record.name,
            group=record.suite,
            job_type=record.stage,
            tags=record.tags,
            notes=record.notes,
            config=dict(record.config),
            reinit="finish_previous",
            settings=wandb.Settings(
                git_commit=record.commit,
                disable_git=True,  # of the folder where this is typed
                disable_code=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                console="off",
                silent=True,
                symlink=False,
            ),
        )

    @contextlib.contextmanager
    def _own_files(self, home: Path, record: Record) -> Iterator[None]:
        """Keep the artifact files that wandb stages next to an offline run until it is uploaded."""
        home.mkdir(parents=True, exist_ok=True)
        staged = home / "staged" / record.id
        shutil.rmtree(staged, ignore_errors=True)
        before = os.environ.get("WANDB_DATA_DIR")
        if self.mode == "offline":
            os.environ["WANDB_DATA_DIR"] = str(staged)
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("WANDB_DATA_DIR", None)
            else:
                os.environ["WANDB_DATA_DIR"] = before

    def _use(self, run: "Run", artifact: "wandb.Artifact") -> None:
        if self.mode == "online":
            run.use_artifact(artifact)
        else:  # use_artifact refuses to work offline, what it calls does not
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


class LiveRun:
    """An open run of wandb."""

    def __init__(self, run: "Run") -> None:
        self.run = run

    def log(self, point: Point) -> None:
        """Send a point of the curve."""
        _log(self.run, point)

    def close(self, failed: bool) -> None:
        """Finish it."""
        self.run.finish(exit_code=int(failed))


@contextlib.contextmanager
def _finished(run: "Run") -> Iterator[None]:
    """Finish a run at the end of the block, as failed if it raises."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the work is the error to show
            run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


def _log(run: "Run", point: Point) -> None:
    time = {} if point.time is None else {"_timestamp": point.time}
    run.log({**point.values, **_pictures(point.images), **time}, step=point.step)


def _pictures(images: Mapping[str, Path]) -> dict[str, object]:
    import wandb

    return {name: wandb.Image(str(file)) for name, file in images.items()}


def _media(record: Record) -> dict[str, object]:
    """Return pictures and tables by name."""
    tables = {name: _table(table) for name, table in record.tables.items()}
    return {**_pictures(record.images), **tables}


def _table(table: Table) -> "wandb.Table":
    import wandb

    def shown(cell: CellValue) -> object:
        return wandb.Image(str(cell)) if isinstance(cell, Path) else cell

    rows = [[shown(cell) for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)


def _artifact(item: Artifact, files: bool) -> "wandb.Artifact":
    """Return an artifact: a file with name and digest, the same in every run, and its files."""
    import wandb

    made = wandb.Artifact(item.name, item.kind, metadata=item.listed())
    with made.new_file("digest.json") as file:
        json.dump(item.listed(), file, indent=2)
    for name, place in item.files() if files else ():
        made.add_file(str(place), name=name)
    return made


def resolved_mode(mode: str | None) -> Mode:
    """Return the requested mode, else $WANDB_MODE, else offline. Raises BadConfig."""
    asked = mode or os.environ.get("WANDB_MODE") or "offline"
    if asked not in MODES:
        raise BadConfig(
            f"WANDB_MODE must be one of {', '.join(get_args(Mode))}; got {asked!r:.100}\n"
            "type: logger.mode=offline"
        )
    return cast(Mode, MODES[asked] or asked)


def has_credentials() -> bool:
    """Whether there is a Weights & Biases key: in the environment, or from `wandb login`."""
    if any(os.environ.get(name) for name in CREDENTIALS):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or SERVER).hostname or ""
    names = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for place in (Path(name).expanduser() for name in names if name):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(place).authenticators(host):
                return True
    return False
