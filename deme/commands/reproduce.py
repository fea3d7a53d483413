"""`deme reproduce`: run everything that a table needs, stage by stage, then write the table.

Several processes may share the work, on this machine or on a cluster.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from deme.commands import table
from deme.runs import (
    Node,
    ReproduceSettings,
    Suite,
    SuiteOptions,
    build,
    compose_stage,
    instantiate,
)
from deme.runs.formats import Status
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
        _reset_failures(suite)
    done = [node for node in suite.nodes if node.state == "done"]
    skipped = ", skipping those" if done else ""
    logger.info("%s: %d runs, %d done already%s", suite.name, len(suite.nodes), len(done), skipped)
    failures: Mapping[Node, DemeError] = {}
    if len(done) < len(suite.nodes):
        with _limited(options.minutes):
            found = launcher.run(suite, options.jobs)
        if found is None:  # jobs are queued, and go on
            return
        failures = found
    error = _failure(suite, failures)
    if error is None or any(n.state == "done" for n in suite.nodes if n.stage == "evaluate"):
        table.run(suite)
    if error is not None:
        raise error


def _reset_failures(suite: Suite) -> None:
    """Let the runs that failed be tried again."""
    failed = [node.run for node in suite.nodes if node.state == "failed"]
    for run in failed:
        if run is not None:
            run.reset_failure()
    if failed:
        logger.info("%d failed runs are tried again", len(failed))


def _failure(suite: Suite, found: Mapping[Node, DemeError]) -> DemeError | None:
    """Return the error of the runs that failed or cannot start, None if there are none.

    `found`: those that failed in this process.
    """
    states = {node: node.state for node in suite.nodes}
    failed = [node for node, state in states.items() if state == "failed" or node in found]
    if not failed:
        return next((n.missing_file for n in suite.nodes if n.missing_file is not None), None)
    blocked = sum(
        state != "done" and node not in failed and not {*failed}.isdisjoint(node.ancestors)
        for node, state in states.items()
    )
    errors = {node: found.get(node) or _recorded_error(node) for node in failed}
    for node in failed[1:MOST_SHOWN]:
        print_error(f"{_place(node)}: {first_line(errors[node])}")
    first = errors[failed[0]]
    counts = [
        *([f"{len(failed)} runs failed"] if len(failed) > 1 else []),
        *([f"{blocked} runs depend on failed ones"] if blocked else []),
    ]
    lines = [f"{_place(failed[0])}: {first}", *([", and ".join(counts)] if counts else [])]
    if "failed" in states.values():
        lines.append("to try failed runs again, type: the same command with retry=failed")
    return of_exit_code(first.exit_code)("\n".join(lines))


def _place(node: Node) -> str:
    return node.title if node.run is None else f"{node.title} ({node.run.path})"


def _recorded_error(node: Node) -> DemeError:
    """Return the error that status.json of a failed run holds."""
    status: Status = node.run.status if node.run is not None else {"state": "failed"}
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
