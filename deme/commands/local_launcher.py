"""launcher=local: the processes of `deme reproduce` on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from deme.commands import suite_worker
from deme.commands.costs import TimeLeft
from deme.commands.suite_worker import Worker, left_in
from deme.runs import Node, Suite
from deme.system import DemeError, helpers, logger, progress
from deme.system.shared_disk import WORKERS, registered_worker

GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class LocalLauncher:
    """Works on a suite in this process and, for jobs=n, in n - 1 others.

    Each of several processes has a GPU of its own, as far as there are enough, and its share of the
    CPU cores, unless $OMP_NUM_THREADS says otherwise.
    """

    def run(self, suite: Suite, jobs: int) -> dict[Node, DemeError]:
        """Run what is not done; return the runs that failed in this process, with their errors."""
        if not left_in(suite):
            return {}
        shares = environments(jobs)
        os.environ.update(shares[0])  # torch is not imported yet
        words = [str(suite.file), str(suite.runs), *suite.paths, *suite.neutral]
        arguments = [words] * (jobs - 1)
        left = TimeLeft(suite, jobs)
        done = sum(node.state == "done" for node in suite.nodes)
        with (
            registered_worker(suite.runs / suite.name / WORKERS),
            helpers(suite_worker.__name__, arguments, shares[1:]),
            progress("runs", len(suite.nodes), "runs", start=done) as bar,
        ):
            bar.seconds_left = left.seconds
            worker = Worker(suite, bar)
            worker.work()  # until nothing is left, of what a killed helper had begun either
        return worker.failed


def environments(jobs: int) -> list[dict[str, str]]:
    """Return the environment variables of each of several processes, {} for a single one."""
    if jobs == 1:
        return [{}]
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    if 0 < len(gpus) < jobs:
        logger.warning(
            "%d processes share %d GPUs; jobs=%d gives each its own", jobs, len(gpus), len(gpus)
        )
    threads = (
        {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
    )
    return [
        threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})
        for i in range(jobs)
    ]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as $CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(GPUS.glob("*"))))]
