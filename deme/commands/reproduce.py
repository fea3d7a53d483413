"""`deme reproduce`: run everything that a table needs, stage by stage, then write the table.

Several processes may share the work.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deme.commands import stage_function, table
from deme.commands.costs import TimeLeft
from deme.runs import BLOCKED, Node, Suite, SuiteOptions
from deme.system import (
    BadConfig,
    Bar,
    DemeError,
    WorkFailed,
    as_deme_error,
    duration,
    helpers,
    is_locked,
    logger,
    progress,
    world,
)


def run(suite: Suite, options: SuiteOptions) -> None:
    """Run what is not done with `jobs` processes, then write the table of what is there.

    Raises the first failure. After `minutes` the work is stopped as a scheduler would stop it (exit
    code 75); run the same command to resume.
    """
    if world().size > 1:
        raise BadConfig(
            "deme reproduce starts processes by itself: not under torchrun or srun with several "
            "tasks\ntype: jobs=<n>"
        )
    done = [node for node in suite.nodes if node.state == "done"]
    skipped = ", skipping those" if done else ""
    logger.info("%s: %d runs, %d done already%s", suite.name, len(suite.nodes), len(done), skipped)
    first_error = None
    if len(done) < len(suite.nodes):
        arguments = [[str(suite.file), str(suite.runs), *suite.paths]] * (options.jobs - 1)
        with _limited(options.minutes), helpers(__name__, arguments) as codes:
            try:
                time_left = TimeLeft(suite, options.jobs)
                with progress("runs", len(suite.nodes), "runs", start=len(done)) as bar:
                    bar.seconds_left = time_left.seconds
                    work(suite, bar)
            except DemeError as error:
                first_error = error
        if first_error is None and any(codes) and any(node.state != "done" for node in suite.nodes):
            raise WorkFailed(
                f"helper processes ended with exit codes {codes}; run the same command again"
            )
    if first_error is not None:
        if any(node.state == "done" for node in suite.nodes if node.stage == "evaluate"):
            table.run(suite)
        raise first_error
    table.run(suite)


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


def work(suite: Suite, bar: Bar | None = None, last_first: bool = False) -> None:
    """Run nodes until all are done, each once its inputs are there and no other process has it.

    Helpers start at the other end (`last_first`), so that two processes seldom want the same node.
    A failing node does not stop the others; its error is raised when nothing else can be done.
    """
    failed: dict[Node, DemeError] = {}
    num_open = sum(node.state != "done" for node in suite.nodes)
    while True:
        open_nodes = [node for node in suite.nodes if node.state != "done"]
        if bar is not None:
            bar.advance(num_open - len(open_nodes))
            num_open = len(open_nodes)
        open_nodes = [node for node in open_nodes if node not in failed]
        ready = [node for node in open_nodes if node.state not in BLOCKED]
        missing_file = [node.missing_file for node in open_nodes if node.missing_file is not None]
        left = bar.seconds_left if bar is not None else None
        if not any(_try(node, failed, left) for node in (reversed(ready) if last_first else ready)):
            if not ready and (failed or missing_file or not open_nodes):
                break
            time.sleep(0.5)
    if failed or missing_file:
        raise next(iter(failed.values())) if failed else missing_file[0]


def _try(
    node: Node, failed: dict[Node, DemeError], left: Callable[[], float | None] | None
) -> bool:
    """Run a node unless another process is running it; return whether it was run.

    `left` returns the seconds that all remaining runs take, None if unknown.
    """
    planned = node.run
    if planned is None or is_locked(planned.path / ".lock"):
        return False
    nodes, seconds = node.suite.nodes, left() if left is not None else None
    number = sum(each.state == "done" for each in nodes) + 1
    time_left = f"; about {duration(seconds)} left for all runs" if seconds else ""
    logger.info("run %d of %d: %s%s", number, len(nodes), node.title, time_left)
    try:
        stage_function(node.stage)(planned.config)
    except (DemeError, OSError) as error:
        failed[node] = as_deme_error(error)
        logger.error("%s (%s): %s", node.title, planned.path, failed[node])
    return True


def helper(file: str, runs: str, *paths: str) -> None:
    """Work on a suite in a helper process; every failure is logged."""
    sys.argv[1:] = ["reproduce", file, f"runs={runs}", *paths]  # what run.json names
    try:
        work(Suite.read(Path(file), Path(runs), paths), last_first=True)
    except DemeError as error:
        sys.exit(error.exit_code)
