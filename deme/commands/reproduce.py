"""`deme reproduce`: run everything that a table needs, stage by stage, then write the table.

Several processes may share the work, on this machine or on a cluster.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deme.commands import table
from deme.commands.suite_worker import Worker
from deme.runs import (
    Node,
    ReproduceSettings,
    Suite,
    SuiteOptions,
    build,
    compose_stage,
    instantiate,
)
from deme.system import BadConfig, DemeError, WorkFailed, first_line, logger, print_error, world
from deme.system.errors import of_exit_code

MOST_SHOWN = 5  # failures


def run(suite: Suite, options: SuiteOptions, words: Sequence[str] = ()) -> None:
    """Run what is not done with `jobs` processes, then write the table of what is there.

    `words`: overrides of `launcher`, and of `logger` and `progress` of all runs. Raises the first
    failure. After `minutes` the work is stopped as a scheduler would stop it (exit code 75); run
    the same command to resume.
    """
    if world().size > 1:
        raise BadConfig(
            "deme reproduce starts processes by itself: not under torchrun or srun with several "
            "tasks\ntype: jobs=<n>"
        )
    launcher = instantiate(build(ReproduceSettings, compose_stage("reproduce", words)).launcher)
    suite = replace(suite, neutral=tuple(word for word in words if not word.startswith("launcher")))
    if options.retry == "failed":
        _forget_failures(suite)
    done = [node for node in suite.nodes if node.state == "done"]
    skipped = ", skipping those" if done else ""
    logger.info("%s: %d runs, %d done already%s", suite.name, len(suite.nodes), len(done), skipped)
    worker = Worker(suite)
    if len(done) < len(suite.nodes):
        with _limited(options.minutes):
            found = launcher.run(suite, options.jobs)
        if found is None:  # jobs are queued, and go on
            return
        worker = found
    error = _failure(suite, worker)
    if error is None or any(n.state == "done" for n in suite.nodes if n.stage == "evaluate"):
        table.run(suite)
    if error is not None:
        raise error


def _forget_failures(suite: Suite) -> None:
    """Let the runs that failed be tried again."""
    failed = [node.run for node in suite.nodes if node.state == "failed"]
    for run in failed:
        if run is not None:
            run.forget_failure()
    logger.info("%d failed runs are tried again", len(failed))


def _failure(suite: Suite, worker: Worker) -> DemeError | None:
    """Return the error of the runs that failed or cannot start, None if there are none."""
    states = {node: node.state for node in suite.nodes}
    failed = [node for node in suite.nodes if worker.has_failed(node)]
    if not failed:
        return next((n.missing_file for n in suite.nodes if n.missing_file is not None), None)
    blocked = sum(
        state != "done" and node not in failed and not {*failed}.isdisjoint(node.ancestors)
        for node, state in states.items()
    )
    errors = {node: _error_of(node, worker) for node in failed}
    for node in failed[1:MOST_SHOWN]:
        print_error(f"{_place(node)}: {first_line(errors[node])}")
    first = errors[failed[0]]
    more = f"\n{len(failed)} runs failed" if len(failed) > 1 else ""
    waits = f"{', and' if more else chr(10)}{blocked} runs depend on failed ones" if blocked else ""
    again = "\nto try failed runs again, type: the same command with retry=failed"
    return of_exit_code(first.exit_code)(
        f"{_place(failed[0])}: {first}{more}{waits}{again * ('failed' in states.values())}"
    )


def _place(node: Node) -> str:
    return node.title if node.run is None else f"{node.title} ({node.run.path})"


def _error_of(node: Node, worker: Worker) -> DemeError:
    """Return the error that ended a run, here or in another process."""
    if (error := worker.failed.get(node)) is not None or node.run is None:
        return error or WorkFailed("it failed")
    status = node.run.status
    kind = of_exit_code(status.get("exit_code", WorkFailed.exit_code))
    return kind(status.get("error", "it failed"))


@contextlib.contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Send this process SIGTERM when the time is over."""
    timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if minutes:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
