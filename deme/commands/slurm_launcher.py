"""launcher=slurm: an array of jobs that share the runs of a suite, then a job for the table."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deme.commands.slurm_queue import SlurmQueue, is_ready, is_shared, settings_of_own_job, squeue
from deme.commands.slurm_wait import job_ids, wait_for_suite
from deme.commands.suite_worker import Worker, left_in, suite_of
from deme.runs import Node, Suite
from deme.system import (
    BadConfig,
    DemeError,
    Stopped,
    WorkFailed,
    locked,
    log_to_terminal,
    logger,
    optional_module,
    print_error,
    print_result,
    signals,
    world,
)
from deme.system.shared_disk import WORKERS, registered_worker

if TYPE_CHECKING:
    import submitit

MAX_REQUEUES = 1000  # times that a job is queued again after its time limit


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
        if self.stop_seconds >= 3600 * self.hours:
            raise BadConfig(
                f"launcher.stop_seconds={self.stop_seconds} is all of the time limit, "
                f"launcher.hours={self.hours:g}\ntype: launcher.hours=<more>"
            )

    def run(self, suite: Suite, jobs: int) -> dict[Node, DemeError] | None:
        """Queue what is needed; return None without waiting for it if `wait` is false.

        No run is done in this process, so none fails in it: the dictionary is empty. Raises
        MissingInput without submitit or SLURM, BadConfig for a job that sbatch refuses, WorkFailed
        if the jobs end before the suite.
        """
        optional_module("submitit", "queues jobs of SLURM", "slurm")
        squeue()  # whether SLURM answers
        queue = SlurmQueue(suite)
        if states := queue.states():
            logger.info("already queued: %s", "; ".join(queue.lines(states)))
            logger.info(
                "what is typed now of launcher and jobs does not change these jobs; to queue "
                "others, first type: scancel %s",
                job_ids(states),
            )
        self.submit(queue, jobs)
        if not self.wait:
            lines = queue.lines(queue.states())
            print_result("\n".join([*lines, f"to see it, type: deme plan {suite.file}"]))
            return None
        try:
            wait_for_suite(queue, lambda: self.submit(queue, jobs))
        except Stopped:
            logger.warning(
                "the jobs go on; the same command waits for them again; to end them: scancel %s",
                job_ids(queue.states()),
            )
            raise
        if left := left_in(suite):
            raise WorkFailed(
                f"all jobs have ended or were cancelled, and {len(left)} runs are not done, such "
                f"as {left[0].title}; the logs of jobs that have begun are in {queue.folder}\n"
                "run the same command again to queue new jobs"
            )
        return {}

    def submit(self, queue: SlurmQueue, jobs: int) -> None:
        """Queue workers for what is left, runs that need a job of their own, and the table.

        Nothing that is queued already is queued twice, whoever calls it.
        """
        with locked(queue.lock, lambda owner: logger.info("%s is queueing jobs", owner)):
            states, queued = queue.states(), queue.read()
            active = {job.partition("_")[0] for job in states}
            left = left_in(queue.suite)
            for node in left:
                is_queued = queued["own"].get(node.title) in active
                own = settings_of_own_job(node)
                if own is not None and is_ready(node) and not is_queued:
                    (job,) = _submitted(
                        self._executor(queue, own), [self._job(queue, jobs, title=node.title)]
                    )
                    queued["own"][node.title] = job
                    queue.write(queued)
                    logger.info("queued job %s for %s", job, node.title)
            shared = [node for node in left if is_shared(node)]
            if any(map(is_ready, shared)) and not active & {*queued["workers"]}:
                workers = [self._job(queue, jobs, number) for number in range(jobs)]
                array = _submitted(self._executor(queue, {}), workers)
                queued["workers"] = sorted({job.partition("_")[0] for job in array})
                queue.write(queued)
                logger.info("queued %d workers: job %s", jobs, ", ".join(queued["workers"]))
                last = self._executor(queue, {}, after=queued["workers"])
                (queued["table"],) = _submitted(last, [self._job(queue, jobs, is_table=True)])
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
            folder=queue.folder / "%A", cluster="slurm", slurm_max_num_timeout=MAX_REQUEUES
        )
        gpus = own.get("gpus", self.gpus) if not after else 0
        more = {key.replace("-", "_"): value for key, value in self.options.items()}
        if after:
            more["dependency"] = f"afterany:{':'.join(after)}"
        wanted = {
            "name": queue.job_name,
            "timeout_min": round(60 * own.get("hours", self.hours)),
            "tasks_per_node": own.get("gpus", 1),  # processes that train together
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
            if not error.is_reported:
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

        suite = suite_of(self.file, self.runs, self.words, self.results)
        if self.is_table:
            table.run(suite)
            return 0
        worker = Worker(suite, last_first=self.number % 2 == 1)
        if self.title is not None:
            (node,) = (node for node in suite.nodes if node.title == self.title)
            worker.run(node)
        else:
            with registered_worker(suite.runs / suite.name / WORKERS):
                worker.work(is_shared)
        if world().rank == 0 and not all(map(is_shared, suite.nodes)):
            with contextlib.suppress(DemeError):  # where jobs cannot queue others, the user does
                self.launcher.submit(SlurmQueue(suite), self.jobs)
            if not left_in(suite):
                table.run(suite)
        return next((error.exit_code for error in worker.failed.values()), 0)


def _submitted(executor: "submitit.AutoExecutor", jobs: Sequence["SuiteJob"]) -> list[str]:
    """Queue jobs, several as an array, and return their ids. Raises BadConfig."""
    from submitit.core.utils import FailedJobError

    try:
        with executor.batch() if len(jobs) > 1 else contextlib.nullcontext():
            queued = [executor.submit(job) for job in jobs]
        return [job.job_id for job in queued]
    except FailedJobError as error:
        refusal = str(error).strip().splitlines()[-1]
        raise BadConfig(f"sbatch refuses the job: {refusal}\nsee launcher.<key>") from error
