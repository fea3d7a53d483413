"""Waiting for the SLURM jobs of a suite: progress, and what the user should know of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from deme.commands.slurm_queue import JobState, SlurmQueue, is_shared
from deme.system import logger, progress

POLL_SECONDS, ASK_SECONDS = 1.0, 5.0  # between looks at the runs, and questions to SLURM


def wait_for_suite(queue: SlurmQueue, submit: Callable[[], None]) -> None:
    """Show the progress of a suite until it is done, or none of its jobs is queued.

    `submit` queues the jobs of runs that have one of their own and are ready by now. Warns of jobs
    that may never start, and of those that end without success.
    """
    suite, asked, reported = queue.suite, 0.0, set[str]()
    before: Mapping[str, JobState] = {}
    done = sum(node.state == "done" for node in suite.nodes)
    with progress("runs", len(suite.nodes), "runs", start=done) as bar:
        while True:
            bar.advance(sum(node.state == "done" for node in suite.nodes) - done)
            done = sum(node.state == "done" for node in suite.nodes)
            if done == len(suite.nodes):
                return
            if time.monotonic() - asked > ASK_SECONDS:
                asked = time.monotonic()
                if not all(map(is_shared, suite.nodes)):
                    submit()
                known = queue.recent_states()
                states = {job: state for job, state in known.items() if state.is_active}
                for line in _news(before, known):
                    logger.warning("%s", line)
                for job, state in states.items():
                    if state.blocking_reason and state.blocking_reason not in reported:
                        reported.add(state.blocking_reason)
                        logger.warning(
                            "job %s may never start; SLURM's reason: %s; to cancel the jobs "
                            "and queue others, type: scancel %s, then this command with other "
                            "launcher.<key>=<value>",
                            job,
                            state.blocking_reason,
                            job_ids(states),
                        )
                if not states:
                    return
                before = states
            time.sleep(POLL_SECONDS)


def job_ids(states: Iterable[str]) -> str:
    """Return the ids of jobs, as scancel takes them."""
    return " ".join(sorted({job.partition("_")[0] for job in states}))


def _news(before: Mapping[str, JobState], known: Mapping[str, JobState]) -> Iterator[str]:
    """Yield a line for each job that was queued or running and has ended without success."""
    for job in before:
        if job in known and not known[job].is_active and known[job].state != "COMPLETED":
            yield f"job {job} has ended: {known[job].state}"
