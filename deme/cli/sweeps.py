"""The jobs of a sweep: each outcome is recorded, and a table of them is printed at the end.

Jobs may run in other processes and on other machines, all of which can read the sweep's folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from typing_extensions import TypedDict

from deme.runs import is_run
from deme.system import (
    DemeError,
    Stopped,
    append_line,
    logger,
    optional_module,
    print_error,
    print_result,
    read_jsonl,
    signals,
    world,
)
from deme.system.errors import of_exit_code, run_of

STATES = {0: "done", 75: "stopped", 130: "stopped"}  # by exit code; others are failures
MAX_ERROR = 60  # characters of an error in the table


class SweepFolder(Callback):
    """A Hydra callback that records the folder of the sweep, which all jobs can read.

    `launcher` is the name of the class that starts the jobs.
    """

    found: ClassVar[list[Path]] = []
    launcher: ClassVar[str] = ""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Hydra calls this before the first job."""
        self.found[:] = [Path(config.hydra.sweep.dir).absolute()]
        SweepFolder.launcher = str(config.hydra.launcher._target_).rpartition(".")[2]
        if SweepFolder.launcher == "RayLauncher":
            _start_ray(config.hydra.launcher.ray.init)


def _start_ray(options: DictConfig) -> None:
    """Start Ray as its launcher would, and handle stop signals again: Ray takes them over."""
    ray = optional_module("ray", "runs the jobs of hydra/launcher=ray", "ray")
    if not ray.is_initialized():
        ray.init(**cast(dict[str, Any], OmegaConf.to_container(options, resolve=True)))
    signals.install()


class Job(TypedDict):
    """A job of a sweep: its swept values, the run or file that it wrote, and its outcome."""

    number: int
    job: str
    swept: list[str]
    place: str | None
    exit_code: int
    message: str
    is_reported: bool  # whether another process of the same training prints the message


def note_stop(file: Path, number: int, swept: list[str], stop: Stopped) -> None:
    """Record that a job was asked to stop, for the end of the sweep."""
    _note(file, _job(number, swept, None, stop.exit_code, str(stop)))


def note_success(file: Path, number: int, swept: list[str], place: Path) -> None:
    """Record the result of a successful job for the end of the sweep."""
    _note(file, _job(number, swept, str(place), 0, ""))


def note_failure(
    file: Path, number: int, swept: list[str], error: DemeError, cause: BaseException
) -> None:
    """Log and record the failure of a job; `cause` is the exception that was raised."""
    place = run_of(cause)
    made = None if place is None else str(place)
    one = _job(number, swept, made, error.exit_code, str(error), error.is_reported)
    if not error.is_reported:
        logger.error("%s", failure_message(one).splitlines()[0])
    _note(file, one)


def _job(
    number: int,
    swept: list[str],
    place: str | None,
    exit_code: int,
    message: str,
    is_reported: bool = False,
) -> Job:
    return {
        "number": number,
        "job": " ".join(swept),
        "swept": swept,
        "place": place,
        "exit_code": exit_code,
        "message": message,
        "is_reported": is_reported,
    }


def _note(file: Path, job: Job) -> None:
    append_line(file, json.dumps(job))


def jobs_in(file: Path) -> list[Job]:
    """Return the recorded jobs in their order; of a job that was started again, the last record."""
    found = {(job["number"], job["job"]): job for job in read_jsonl(file, Job)}
    return sorted(found.values(), key=lambda job: job["number"])


def is_failure(job: Job) -> bool:
    """Whether a job failed; one that was stopped did not."""
    return job["exit_code"] not in STATES


def failure_message(job: Job) -> str:
    """Return the error message of a failed job, with its swept values and its run."""
    message, place = job["message"], job["place"]
    if place is not None:
        return f"{job['job']} ({place}): {message}"
    return message if message.startswith(job["job"]) else f"{job['job']}: {message}"


def end_sweep(jobs: Sequence[Job]) -> None:
    """Print the table of the jobs, then every failure but the first, which is raised."""
    if jobs and world().rank == 0:
        print_result(summary(jobs))
    failures = [job for job in jobs if job["exit_code"]]
    for one in failures[1:]:
        if not one["is_reported"]:
            print_error(failure_message(one))
    if failures:
        code, message = failures[0]["exit_code"], failure_message(failures[0])
        if code in STATES:
            raise signals.stopped(code)
        error = of_exit_code(code)(message)
        error.is_reported = failures[0]["is_reported"]
        raise error


def summary(jobs: Sequence[Job]) -> str:
    """Return a table of jobs: swept values, state, main numbers, error and run."""
    from deme.report.run_settings import Settings, differing
    from deme.report.run_table import BEST, number_columns
    from deme.report.terminal import aligned
    from deme.runs.listing import ListedRun, read_run

    swept = [dict(word.partition("=")[::2] for word in job["swept"]) for job in jobs]
    keys = [key for key in dict.fromkeys(key for values in swept for key in values) if key]
    runs: dict[int, ListedRun] = {}
    for index, job in enumerate(jobs):
        if job["place"] is not None and is_run(Path(job["place"])):
            runs[index] = read_run(Path(job["place"]))
    settings, listed = Settings(runs.values()), [*runs.values()]
    numbers = number_columns(listed, settings, differing(listed, settings))
    position = {index: number for number, index in enumerate(runs)}
    failed = any(map(is_failure, jobs))
    titles = [*keys, "state", *(column.title for column in numbers)]
    titles += [*(["error"] if failed else []), "made"]
    lines = []
    for index, (job, values) in enumerate(zip(jobs, swept, strict=True)):
        line = [values.get(key, "") for key in keys]
        line.append(STATES.get(job["exit_code"], "failed"))
        line += [c.texts[position[index]] if index in position else "" for c in numbers]
        if failed:
            message = job["message"].partition("\n")[0].removeprefix(f"{job['job']}: ")
            line.append(message if len(message) <= MAX_ERROR else f"{message[:MAX_ERROR]}...")
        lines.append([*line, job["place"] or ""])
    right = range(len(keys) + 1, len(keys) + 1 + len(numbers))
    table = aligned(titles, lines, right)
    stars = any(text.endswith("*") for column in numbers for text in column.texts)
    return f"{table}\n{BEST}" if stars else table
