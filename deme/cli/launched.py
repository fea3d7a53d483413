"""The jobs of a sweep that a launcher of Hydra runs in other processes: how they stop and end.

Every job records its start and its outcome next to the sweep. So the first process knows which jobs
to forward a stop signal to, and which jobs have ended without an outcome.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from deme.cli.sweeps import SweepFolder, jobs_in, note_failure, note_stop
from deme.system import (
    BadConfig,
    DemeError,
    Preempted,
    Stopped,
    WorkFailed,
    append_line,
    check_installed,
    exists,
    first_line,
    log_to_terminal,
    logger,
    read_jsonl,
    signals,
    write_text,
)

PLUGINS = {  # Hydra's name of a launcher -> its module, and the extra of this package that has it
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
}
SERIAL = ("", "BasicLauncher")  # runs jobs in this process
SLURM = "SlurmLauncher"  # its jobs go on when this process ends
POLL_SECONDS = 0.5
KILLED = WorkFailed(
    "its process was killed, perhaps for lack of memory\nrun the same command again to resume"
)


class Start(TypedDict):
    """A job that has begun, and the process that runs it."""

    number: int
    swept: list[str]
    pid: int
    host: str


def check_launcher(words: Sequence[str]) -> None:
    """Raise MissingInput for a launcher whose plugin is not installed."""
    for word in words:
        group, _, name = word.lstrip("+").partition("=")
        if group == "hydra/launcher" and name in PLUGINS:
            module, extra = PLUGINS[name]
            check_installed(module, f"runs the jobs of hydra/launcher={name}", extra)


@contextlib.contextmanager
def launched_job(file: Path, number: int, swept: list[str]) -> Iterator[bool]:
    """Run a job in the block, in a process of a launcher; yield whether it is to run.

    A job that is stopped is saved first; then the launcher's own handler of the signal is called,
    which may queue the job again.
    """
    log_to_terminal()
    start = {"number": number, "swept": swept, "pid": os.getpid(), "host": os.uname().nodename}
    append_line(_starts_file(file), json.dumps(start))
    if _stop_file(file).exists():
        note_stop(file, number, swept, signals.stopped(Preempted.exit_code))
        yield False
        return
    try:
        with signals.in_job():
            try:
                yield True
            except Stopped as stop:
                note_stop(file, number, swept, stop)
                raise
    except Stopped as stop:
        if "SUBMITIT_EXECUTOR" in os.environ:  # a process for each job, whose exit code counts
            sys.exit(stop.exit_code)


@contextlib.contextmanager
def sweep(file: Callable[[], Path]) -> Iterator[None]:
    """Run all jobs of a sweep in the block, and forward stop signals to those in other processes.

    `file` returns where jobs are recorded, once the sweep has begun. If the launcher gives up, the
    others are waited for, and those that ended without an outcome are recorded as failed.
    """
    began = time.time()

    def forward(signum: int) -> bool:
        if SweepFolder.launcher in (*SERIAL, SLURM):
            return False
        logger.info("stopping the jobs of the sweep")
        write_text(_stop_file(file()), "")
        for start in _running(file()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(start["pid"], signum)
        return True

    SweepFolder.launcher = ""
    # of joblib, when it replaces a process that has grown; no job is lost
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    try:
        with signals.forwarded(forward):
            try:
                yield
            except Exception as error:
                if isinstance(error, DemeError) or SweepFolder.launcher in SERIAL:
                    raise
                if not exists(_starts_file(file())):  # the launcher itself has refused its settings
                    raise BadConfig(
                        f"{SweepFolder.launcher}: {first_line(error)}\nsee hydra.launcher.<key>"
                    ) from error
                _wait_for_jobs(file(), began)
                if not _note_killed(file()) and not any(j["exit_code"] for j in jobs_in(file())):
                    raise WorkFailed(f"{SweepFolder.launcher}: {first_line(error)}") from error
            else:
                _note_killed(file())
    except Stopped:
        if SweepFolder.launcher == SLURM:
            logger.warning("the jobs of the sweep stay in the queue; to see them: squeue --me")
        raise


def delete_records(file: Path) -> None:
    """Delete the records of a sweep that has ended."""
    for each in (file, _starts_file(file), _stop_file(file)):
        each.unlink(missing_ok=True)


def _starts_file(file: Path) -> Path:
    return file.with_suffix(".starts")


def _stop_file(file: Path) -> Path:
    return file.with_suffix(".stop")


def _unfinished(file: Path) -> list[Start]:
    """Return the jobs that have begun and have no outcome."""
    ended = {job["number"] for job in jobs_in(file)}
    starts = {start["number"]: start for start in read_jsonl(_starts_file(file), Start)}
    return [start for number, start in sorted(starts.items()) if number not in ended]


def _running(file: Path) -> list[Start]:
    """Return the unfinished jobs whose process is alive, of this machine."""
    here = os.uname().nodename
    return [s for s in _unfinished(file) if s["host"] == here and _is_alive(s["pid"])]


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and is not waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user, or a system without /proc
        return True


def _wait_for_jobs(file: Path, began: float) -> None:
    """Wait for the jobs that still run, or are still queued at submitit."""
    while _running(file) or any(map(_is_alive, _submitted(file, began))):
        time.sleep(POLL_SECONDS)
    while SweepFolder.launcher == SLURM and _queued(_submitted(file, began)):
        time.sleep(10 * POLL_SECONDS)


def _submitted(file: Path, began: float) -> list[int]:
    """Return submitit's ids of the jobs of this sweep: of processes here, or of SLURM's jobs."""
    folders = (file.parent / ".submitit").glob("[0-9]*")
    return [int(f.name.split("_")[0]) for f in folders if f.stat().st_mtime >= began - 1]


def _queued(ids: Sequence[int]) -> bool:
    command = ["squeue", "--noheader", "--jobs", ",".join(map(str, {*ids}))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(ids) and bool(found.stdout.strip())


def _note_killed(file: Path) -> bool:
    """Record the jobs that have begun, and have ended without an outcome."""
    killed = [] if SweepFolder.launcher in SERIAL else _unfinished(file)
    for start in killed:
        note_failure(file, start["number"], start["swept"], KILLED, KILLED)
    return bool(killed)
