"""launcher=local: the processes of `deme reproduce` on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from deme.commands import suite_worker
from deme.commands.costs import TimeLeft
from deme.commands.suite_worker import Worker, nodes_left
from deme.runs import Suite
from deme.system import WorkFailed, helpers, logger, progress
from deme.system.shared_disk import WORKERS, announced

GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class LocalLauncher:
    """Works on a suite in this process and, for jobs=n, in n - 1 others.

    Each of several processes has a GPU of its own, as far as there are enough, and its share of the
    CPU cores, unless $OMP_NUM_THREADS says otherwise.
    """

    def run(self, suite: Suite, jobs: int) -> Worker:
        """Run what is not done, and return what this process has done."""
        if not nodes_left({node: node.state for node in suite.nodes}):
            return Worker(suite)
        shares = environments(jobs)
        os.environ.update(shares[0])  # torch is not imported yet
        words = [str(suite.file), str(suite.runs), *suite.paths, *suite.neutral]
        arguments = [words] * (jobs - 1)
        left = TimeLeft(suite, jobs)
        done = sum(node.state == "done" for node in suite.nodes)
        with (
            announced(suite.runs / suite.name / WORKERS),
            helpers(suite_worker.__name__, arguments, shares[1:]) as codes,
            progress("runs", len(suite.nodes), "runs", start=done) as bar,
        ):
            bar.seconds_left = left.seconds
            worker = Worker(suite, bar)
            worker.work()
        unfinished = [node for node in suite.nodes if node.state in ("running", "preempted")]
        if any(codes) and unfinished:
            raise WorkFailed(
                f"helper processes ended with exit codes {codes}\nrun the same command to resume"
            )
        return worker


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
