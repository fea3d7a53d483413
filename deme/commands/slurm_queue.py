"""What `deme reproduce launcher=slurm` has queued for a suite, and what SLURM says of it."""

import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from deme.runs import BLOCKED, Node, Suite
from deme.system import MissingInput, exists, first_line, is_locked, read_json, write_json

RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED")
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING", "SIGNALING")
NORMAL_REASONS = ("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit")


class JobState(NamedTuple):
    """SLURM's state of a job, and the reason why it is not running."""

    state: str
    reason: str

    @property
    def is_active(self) -> bool:
        """Whether the job is queued or running."""
        return self.state in (*RUNNING, *QUEUED)

    @property
    def blocking_reason(self) -> str | None:
        """The reason why a queued job may never start, None if it only waits for its turn."""
        return self.reason if self.state in QUEUED and self.reason not in NORMAL_REASONS else None


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

    def states(self) -> dict[str, JobState]:
        """Return the jobs of the suite that are queued or running, by id.

        Raises MissingInput if SLURM cannot be asked.
        """
        return {job: state for job, state in self.recent_states().items() if state.is_active}

    def recent_states(self) -> dict[str, JobState]:
        """Return the jobs of the suite that SLURM still knows, ended ones included, by id."""
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
            job, state, reason = line.strip().split("|", 2)
            if job.partition("_")[0] in ids:
                found[job] = JobState(state, reason)
        return found

    def lines(self, states: Mapping[str, JobState]) -> list[str]:
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
            running = [job for job, state in jobs.items() if state.state in RUNNING]
            waiting = [job for job in jobs if job not in running]
            parts = [
                f"{len(some)} {what} ({_shortened(some)})"
                for some, what in ((running, "running"), (waiting, "queued"))
                if some
            ]
            reasons = dict.fromkeys(
                state.blocking_reason for state in jobs.values() if state.blocking_reason
            )
            if reasons:
                parts.append(f"SLURM's reason for waiting: {', '.join(reasons)}")
            found += [f"{name}: {', '.join(parts)}"] if parts else []
        return found


def _shortened(jobs: Iterable[str]) -> str:
    names = list(jobs)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def squeue(name: str | None = None) -> str:
    """Return this user's jobs, a line "id|state|reason" for each; `name`: those of that name.

    Those that ended in the last minutes are included.

    Raises MissingInput if SLURM does not answer.
    """
    named = [] if name is None else [f"--name={name}"]
    shown = ["--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r"]
    command = ["squeue", *shown, *named]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise MissingInput(
            "SLURM's commands are not on this machine: no squeue\ntype: launcher=local"
        ) from error
    except subprocess.CalledProcessError as error:
        text = first_line(Exception(error.stderr))
        raise MissingInput(
            f"SLURM does not answer: {text}\n"
            "to see whether it runs, type: sinfo; without SLURM, leave launcher=slurm out"
        ) from error
    return found.stdout


def settings_of_own_job(node: Node) -> Mapping[str, Any] | None:
    """Return what a job of its own has, as its row says; None if it is done by the workers."""
    found = next(row.job for row in node.suite.settings.rows if row.name == node.row)
    if node.stage != "train" or found is None:
        return None
    given = {} if found == "own" else asdict(found)
    return {name: value for name, value in given.items() if value is not None}


def is_shared(node: Node) -> bool:
    """Whether a run is done by the workers, and has no job of its own."""
    return settings_of_own_job(node) is None


def is_ready(node: Node) -> bool:
    """Whether a run can start, and no process has begun it."""
    return node.state not in ("done", "failed", *BLOCKED) and not is_locked(node.path / ".lock")
