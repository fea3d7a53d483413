"""What `deme reproduce launcher=slurm` has queued for a suite, and what SLURM says of it."""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from deme.runs import Suite
from deme.system import MissingInput, exists, first_line, read_json, write_json

RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED")


class Queued(TypedDict):
    """queue.json: ids of SLURM's jobs. `own`: those of single runs, by the titles of these."""

    workers: list[str]
    table: str | None
    own: dict[str, str]


@dataclass(frozen=True)
class SlurmQueue:
    """The jobs of a suite."""

    suite: Suite

    @property
    def folder(self) -> Path:
        """Where logs and submitted functions are, and what is queued."""
        return self.suite.runs / self.suite.name / ".slurm"

    @property
    def job_name(self) -> str:
        """The name of all jobs of the suite."""
        return f"deme-{self.suite.name}"

    @property
    def lock(self) -> Path:
        """A lock for changes of the queue."""
        return self.folder / ".lock"

    def read(self) -> Queued:
        """Return what was queued, by this process or another one."""
        file = self.folder / "queue.json"
        return (
            read_json(file, Queued) if exists(file) else {"workers": [], "table": None, "own": {}}
        )

    def write(self, queued: Queued) -> None:
        """Record what is queued."""
        write_json(self.folder / "queue.json", dict(queued))

    def states(self) -> dict[str, str]:
        """Return the jobs of the suite that are queued or running: id -> SLURM's state.

        Raises MissingInput if SLURM cannot be asked.
        """
        queued = self.read()
        ids = [
            *queued["workers"],
            *([queued["table"]] if queued["table"] else []),
            *queued["own"].values(),
        ]
        if not ids:
            return {}
        found = {}
        for line in squeue(self.job_name).splitlines():
            job, _, state = line.strip().partition(" ")
            if job.partition("_")[0] in ids:
                found[job] = state
        return found

    def lines(self, states: dict[str, str]) -> list[str]:
        """Return what is running and queued, with the ids of jobs."""
        queued = self.read()
        named: dict[str, Callable[[str], bool]] = {
            "workers": lambda job: job in queued["workers"],
            "jobs of single runs": lambda job: job in queued["own"].values(),
            "table": lambda job: job == queued["table"],
        }
        found = []
        for name, belongs in named.items():
            jobs = {job: state for job, state in states.items() if belongs(job.partition("_")[0])}
            running = [job for job, state in jobs.items() if state in RUNNING]
            waiting = [job for job in jobs if job not in running]
            parts = [
                f"{len(some)} {what} ({_shortened(some)})"
                for some, what in ((running, "running"), (waiting, "queued"))
                if some
            ]
            found += [f"{name}: {', '.join(parts)}"] if parts else []
        return found


def _shortened(jobs: Iterable[str]) -> str:
    names = list(jobs)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def squeue(name: str | None = None) -> str:
    """Return this user's jobs, a line of id and state for each; `name`: those of that name.

    Raises MissingInput if SLURM does not answer.
    """
    named = [] if name is None else [f"--name={name}"]
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i %T", *named]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise MissingInput(
            "SLURM's commands are not on this machine: no squeue\ntype: launcher=local"
        ) from error
    except subprocess.CalledProcessError as error:
        text = first_line(Exception(error.stderr))
        raise MissingInput(f"SLURM does not answer: {text}\nrun the same command again") from error
    return found.stdout
