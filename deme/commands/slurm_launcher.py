"""launcher=slurm: an array of jobs that share the runs of a suite, then a job for the table."""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deme.commands.slurm_queue import SlurmQueue
from deme.commands.suite_worker import Worker, nodes_left, run_node, work_on
from deme.runs import BLOCKED, Node, Suite
from deme.system import (
    BadConfig,
    DemeError,
    Stopped,
    WorkFailed,
    is_locked,
    locked,
    log_to_terminal,
    logger,
    optional_module,
    print_error,
    print_result,
    progress,
    signals,
    world,
)
from deme.system.shared_disk import WORKERS, announced

if TYPE_CHECKING:
    import submitit

MANY = 1000  # times that a job is queued again after its time limit
POLL_SECONDS, ASK_SECONDS = 1.0, 5.0  # between looks at the runs, and questions to SLURM


@dataclass(frozen=True)
class SlurmLauncher:
    """Queues jobs that work on a suite, or waits for those that were queued before.

    `hours`, `gpus`, `cpus` and `memory` (GB) are those of one job; `stop_seconds` before its time
    limit a job saves its work and is queued again. `options` are further options of sbatch.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    hours: float = 4.0
    gpus: int = 0
    cpus: int = 1
    memory: float | None = None
    stop_seconds: int = 120
    setup: Sequence[str] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    wait: bool = True

    def __post_init__(self) -> None:
        for name, least in {"hours": 1 / 60, "gpus": 0, "cpus": 1, "stop_seconds": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
                raise BadConfig(
                    f"launcher.{name} must be a number from {least:.2g} on, got {value!r}"
                )

    def run(self, suite: Suite, jobs: int) -> Worker | None:
        """Queue what is needed; return None without waiting for it if `wait` is false.

        Raises MissingInput without submitit or SLURM, WorkFailed if the jobs end before the suite.
        """
        optional_module("submitit", "queues jobs of SLURM", "slurm")
        queue = SlurmQueue(suite)
        if states := queue.states():
            logger.info("already queued: %s", "; ".join(queue.lines(states)))
        else:
            self.submit(queue, jobs)
        if not self.wait:
            print_result(
                "\n".join(
                    [*queue.lines(queue.states()), f"to see it, type: deme plan {suite.file}"]
                )
            )
            return None
        try:
            self._wait(queue, jobs)
        except Stopped:
            ids = " ".join(sorted({job.partition("_")[0] for job in queue.states()}))
            logger.warning(
                "the jobs go on; the same command waits for them again; to end them: scancel %s",
                ids,
            )
            raise
        worker = Worker(suite)
        if left := _left(suite):
            raise WorkFailed(
                f"all jobs have ended, and {len(left)} runs are not done, such as "
                f"{left[0].title}; the logs are in {queue.folder}\nrun the same command again"
            )
        return worker

    def submit(self, queue: SlurmQueue, jobs: int) -> None:
        """Queue workers for what is left, runs that need a job of their own, and the table.

        Nothing that is queued already is queued twice, whoever calls it.
        """
        with locked(queue.lock, lambda owner: logger.info("%s is queueing jobs", owner)):
            states, queued = queue.states(), queue.read()
            active = {job.partition("_")[0] for job in states}
            left = _left(queue.suite)
            for node in left:
                is_queued = queued["own"].get(node.title) in active
                own = own_job(node)
                if own is not None and is_ready(node) and not is_queued:
                    job = self._executor(queue, own).submit(
                        self._job(queue, jobs, title=node.title)
                    )
                    queued["own"][node.title] = job.job_id
                    logger.info("queued job %s for %s", job.job_id, node.title)
            shared = [node for node in left if shares(node)]
            if any(map(is_ready, shared)) and not active & {*queued["workers"]}:
                executor = self._executor(queue, {})
                with executor.batch():
                    array = [
                        executor.submit(self._job(queue, jobs, number)) for number in range(jobs)
                    ]
                queued["workers"] = sorted({job.job_id.partition("_")[0] for job in array})
                logger.info("queued %d workers: job %s", jobs, ", ".join(queued["workers"]))
                table = self._executor(queue, {}, after=queued["workers"])
                queued["table"] = table.submit(self._job(queue, jobs, is_table=True)).job_id
            queue.write(queued)

    def _job(
        self,
        queue: SlurmQueue,
        jobs: int,
        number: int = 0,
        title: str | None = None,
        is_table: bool = False,
    ) -> "SuiteJob":
        suite = queue.suite
        words = (*suite.paths, *suite.neutral)
        results = str(suite.own_results.absolute()) if suite.own_results is not None else None
        return SuiteJob(
            self, str(suite.file), str(suite.runs), words, results, jobs, number, title, is_table
        )

    def _executor(
        self, queue: SlurmQueue, own: Mapping[str, Any], after: Sequence[str] = ()
    ) -> "submitit.AutoExecutor":
        import submitit

        found = submitit.AutoExecutor(
            folder=queue.folder / "%A", cluster="slurm", slurm_max_num_timeout=MANY
        )
        gpus = own.get("gpus", self.gpus) if not after else 0
        more = {key.replace("-", "_"): value for key, value in self.options.items()}
        if after:
            more["dependency"] = f"afterany:{':'.join(after)}"
        wanted = {
            "name": f"deme-{queue.suite.name}",
            "timeout_min": round(60 * own.get("hours", self.hours)),
            "tasks_per_node": max(1, gpus) if own else 1,
            "gpus_per_node": gpus or None,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_signal_delay_s": self.stop_seconds,
            "slurm_setup": list(self.setup) or None,
            "slurm_additional_parameters": more or None,
            "stderr_to_stdout": True,
        }
        found.update_parameters(
            **{key: value for key, value in wanted.items() if value is not None}
        )
        return found

    def _wait(self, queue: SlurmQueue, jobs: int) -> None:
        """Show the progress of a suite until it is done, or none of its jobs is queued."""
        suite, asked = queue.suite, 0.0
        done = sum(node.state == "done" for node in suite.nodes)
        with progress("runs", len(suite.nodes), "runs", start=done) as bar:
            while True:
                bar.advance(sum(node.state == "done" for node in suite.nodes) - done)
                done = sum(node.state == "done" for node in suite.nodes)
                if done == len(suite.nodes):
                    return
                if time.monotonic() - asked > ASK_SECONDS:
                    asked = time.monotonic()
                    if not all(map(shares, suite.nodes)):
                        self.submit(queue, jobs)
                    if not queue.states():
                        return
                time.sleep(POLL_SECONDS)


@dataclass
class SuiteJob:
    """What a job of SLURM does: it works on a suite, on one run of it, or writes its table."""

    launcher: SlurmLauncher
    file: str
    runs: str
    words: tuple[str, ...]
    results: str | None
    jobs: int
    number: int
    title: str | None
    is_table: bool

    def __call__(self) -> None:
        """Work, and end with the exit code of the outcome. Stopped, the work is saved first."""
        log_to_terminal()
        try:
            with signals.in_job():
                code = self._work()
        except Stopped as stop:
            code = stop.exit_code
        except DemeError as error:
            if not error.is_told:
                print_error(error)
            code = error.exit_code
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Return what is done when the job is queued again: submitit asks for it."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _work(self) -> int:
        from deme.commands import table

        paths = [word for word in self.words if word.startswith("paths.")]
        results = Path(self.results) if self.results is not None else None
        suite = Suite.read(Path(self.file), Path(self.runs), paths, results)
        if self.is_table:
            table.run(suite)
            return 0
        queue = SlurmQueue(suite)
        if self.title is not None:
            (node,) = (node for node in suite.nodes if node.title == self.title)
            code = run_node(node, self.words)
            if world().rank > 0:
                return code
        else:
            with announced(suite.runs / suite.name / WORKERS):
                code = work_on(self.file, self.runs, self.words, self.number % 2 == 1, shares)
        if not all(map(shares, suite.nodes)):
            with contextlib.suppress(Exception):  # where jobs cannot queue others, the user does
                self.launcher.submit(queue, self.jobs)
            if not _left(suite):
                table.run(suite)
        return code


def _left(suite: Suite) -> list[Node]:
    return nodes_left({node: node.state for node in suite.nodes})


def own_job(node: Node) -> Mapping[str, Any] | None:
    """Return what a job of its own has, as its row says; None if it is done by the workers."""
    found = next(row.job for row in node.suite.settings.rows if row.name == node.row)
    if node.stage != "train" or found is None:
        return None
    given = {} if found == "own" else asdict(found)
    return {name: value for name, value in given.items() if value is not None}


def shares(node: Node) -> bool:
    """Whether a run is done by the workers that share the suite."""
    return own_job(node) is None


def is_ready(node: Node) -> bool:
    """Whether a run can start, and no process has begun it."""
    return node.state not in ("done", "failed", *BLOCKED) and not is_locked(node.path / ".lock")
