"""One of the processes that share the runs of a suite: it does what is ready and not taken."""

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deme.commands import stage_function
from deme.runs import BLOCKED, Node, Suite
from deme.system import (
    Bar,
    DemeError,
    WorkFailed,
    as_deme_error,
    duration,
    is_locked,
    logger,
)


@dataclass
class Worker:
    """Runs the nodes of a suite. Several workers find out from the run directories who does what.

    A run that failed is not tried again, by no worker, and what depends on it is left out.
    `last_first`: begin at the other end, so that two processes seldom want the same node.
    """

    suite: Suite
    bar: Bar | None = None
    last_first: bool = False
    # runs that failed before they had a directory, in which their state could be
    failed: dict[Node, DemeError] = field(default_factory=dict)

    def work(self, is_mine: Callable[[Node], bool] | None = None) -> None:
        """Run nodes until nothing is left that this process could do or wait for.

        `is_mine`: whether this process may run a node. Runs that depend on others, which it may
        not, are waited for by nobody.
        """
        num_open = sum(node.state != "done" for node in self.suite.nodes)
        while True:
            states = {node: node.state for node in self.suite.nodes}
            if self.bar is not None:
                still_open = sum(state != "done" for state in states.values())
                self.bar.advance(num_open - still_open)
                num_open = still_open
            left = nodes_left(states, self.failed)
            if is_mine is not None:
                others = {node for node in left if not is_mine(node)}
                left = [n for n in left if n not in others and others.isdisjoint(n.ancestors)]
            ready = [node for node in left if states[node] not in BLOCKED]
            if not any(map(self._try, reversed(ready) if self.last_first else ready)):
                if not left:
                    return
                time.sleep(0.5)

    def has_failed(self, node: Node) -> bool:
        """Whether a run failed, here or in another process."""
        return node in self.failed or node.state == "failed"

    def _try(self, node: Node) -> bool:
        """Run a node unless another process is running it; return whether it was run."""
        planned = node.run
        if planned is None or is_locked(planned.path / ".lock") or self.has_failed(node):
            return False
        seconds = self.bar.seconds_left() if self.bar and self.bar.seconds_left else None
        number = sum(each.state == "done" for each in self.suite.nodes) + 1
        time_left = f"; about {duration(seconds)} left for all runs" if seconds else ""
        logger.info("run %d of %d: %s%s", number, len(self.suite.nodes), node.title, time_left)
        try:
            stage_function(node.stage)(planned.config)
        except (DemeError, OSError) as error:
            self.failed[node] = as_deme_error(error)
            logger.error("%s (%s): %s", node.title, planned.path, self.failed[node])
        return True


def nodes_left(states: Mapping[Node, str], failed: Collection[Node] = ()) -> list[Node]:
    """Return the runs that are not done and can be, now or after others; `failed` ones cannot."""
    bad = {node for node, state in states.items() if state in ("missing_file", "failed")}
    bad.update(failed)
    return [
        node
        for node, state in states.items()
        if state != "done" and node not in bad and bad.isdisjoint(node.ancestors)
    ]


def run_node(node: Node, words: Sequence[str]) -> int:
    """Do one run of a suite, in all processes of an srun; return its exit code."""
    sys.argv[1:] = ["reproduce", str(node.suite.file), f"runs={node.suite.runs}", *words]
    if node.run is None:
        raise WorkFailed(f"{node.title} waits for other runs")
    try:
        stage_function(node.stage)(node.run.config)
    except DemeError as error:
        if not error.is_told:
            logger.error("%s (%s): %s", node.title, node.run.path, error)
        return error.exit_code
    return 0


def helper(file: str, runs: str, *words: str) -> None:
    """Work on a suite in a helper process; every failure is logged."""
    work_on(file, runs, words, last_first=True)


def work_on(
    file: str,
    runs: str,
    words: Sequence[str],
    last_first: bool,
    is_mine: Callable[[Node], bool] | None = None,
) -> int:
    """Work on a suite as a process that `deme reproduce` has started; return an exit code.

    `words`: the overrides that all runs are given.
    """
    sys.argv[1:] = ["reproduce", file, f"runs={runs}", *words]  # what run.json names
    paths = [word for word in words if word.startswith("paths.")]
    suite = Suite.read(Path(file), Path(runs), paths)
    suite = replace(suite, neutral=tuple(word for word in words if word not in paths))
    worker = Worker(suite, last_first=last_first)
    worker.work(is_mine)
    return next((error.exit_code for error in worker.failed.values()), 0)
