"""A worker: one of several processes that share the runs of a suite."""

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
    as_deme_error,
    duration,
    is_locked,
    logger,
    signals,
)


@dataclass
class Worker:
    """Runs the nodes of a suite that are ready and that no other process is running.

    No worker tries a failed run again, and runs that depend on it are skipped.
    `last_first`: begin at the other end, so that two processes seldom want the same node.
    """

    suite: Suite
    bar: Bar | None = None
    last_first: bool = False
    # runs that failed before they had a directory, in which their state could be
    failed: dict[Node, DemeError] = field(default_factory=dict)

    def work(self, is_mine: Callable[[Node], bool] | None = None) -> None:
        """Run nodes until nothing is left that this process could do or wait for.

        `is_mine`: whether this process may run a node. It does not wait for the other nodes, nor
        for those that depend on them.
        """
        num_open = sum(node.state != "done" for node in self.suite.nodes)
        while True:
            if (stop := signals.received()) is not None:  # and a library has hidden its error
                raise stop
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

    def _try(self, node: Node) -> bool:
        """Run a node unless another process is running it; return whether it was run."""
        planned = node.run
        if planned is None or is_locked(planned.path / ".lock") or node.state == "failed":
            return False
        self.run(node)
        return True

    def run(self, node: Node) -> None:
        """Do a run whose inputs are finished; its failure is logged, and kept in `failed`."""
        planned = node.run
        assert planned is not None, f"{node.title} waits for its inputs"
        seconds = self.bar.seconds_left() if self.bar and self.bar.seconds_left else None
        number = sum(each.state == "done" for each in self.suite.nodes) + 1
        time_left = f"; about {duration(seconds)} left for all runs" if seconds else ""
        logger.info("run %d of %d: %s%s", number, len(self.suite.nodes), node.title, time_left)
        try:
            stage_function(node.stage)(planned.config)
        except (DemeError, OSError) as error:
            self.failed[node] = known = as_deme_error(error)
            if not known.is_reported:
                logger.error("%s (%s): %s", node.title, planned.path, known)


def nodes_left(states: Mapping[Node, str], failed: Collection[Node] = ()) -> list[Node]:
    """Return the runs that are not done and can be, now or after others; `failed` ones cannot."""
    bad = {node for node, state in states.items() if state in ("missing_file", "failed")}
    bad.update(failed)
    return [
        node
        for node, state in states.items()
        if state != "done" and node not in bad and bad.isdisjoint(node.ancestors)
    ]


def left_in(suite: Suite) -> list[Node]:
    """Return the runs of a suite that are not done and can be."""
    return nodes_left({node: node.state for node in suite.nodes})


def suite_of(file: str, runs: str, words: Sequence[str], results: str | None = None) -> Suite:
    """Return the suite that a process of `deme reproduce` works on; run.json names this command.

    `words`: the overrides that all runs are given, of `paths` and of keys that change no result.
    """
    sys.argv[1:] = ["reproduce", file, f"runs={runs}", *words]
    paths = [word for word in words if word.startswith("paths.")]
    folder = Path(results) if results is not None else None
    suite = Suite.read(Path(file), Path(runs), paths, folder)
    return replace(suite, neutral=tuple(word for word in words if word not in paths))


def helper(file: str, runs: str, *words: str) -> None:
    """Work on a suite in a helper process; every failure is logged, and recorded in its run."""
    Worker(suite_of(file, runs, words), last_first=True).work()
