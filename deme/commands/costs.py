"""How long the runs of a suite take, from finished runs here, else the suite's estimate."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deme.runs import Node, Suite, seconds_of
from deme.system import DemeError


@dataclass(frozen=True)
class Rate:
    """Seconds that a forward pass takes in one process, and whether finished runs say so."""

    seconds: float
    is_measured: bool


def rate_of(suite: Suite, states: Mapping[Node, str], passes: Mapping[Node, int]) -> Rate | None:
    """Return how fast a suite's runs are; None if nothing says it."""
    done = [node for node, state in states.items() if state == "done" and passes[node]]
    seconds = sum(seconds_of(node.run.path) for node in done if node.run is not None)
    if done and seconds:
        return Rate(seconds / sum(passes[node] for node in done), True)
    estimate = suite.settings.plan.seconds_per_million_forward_passes
    return Rate(estimate / 1e6, False) if estimate else None


@dataclass
class TimeLeft:
    """The time that the runs of a suite still take in several processes, as runs are finished."""

    suite: Suite
    jobs: int
    passes: dict[Node, int] = field(default_factory=dict)

    def seconds(self) -> float | None:
        """Return it, None if it is not known: no rate, or a row whose cost cannot be said."""
        states = {node: node.state for node in self.suite.nodes}
        try:
            for node, state in states.items():
                if node not in self.passes or state == "done":  # which recorded what it took
                    self.passes[node] = node.num_forward_passes
        except DemeError:
            return None
        rate = rate_of(self.suite, states, self.passes)
        if rate is None:
            return None
        left = sum(self.passes[node] for node, state in states.items() if state != "done")
        return left * rate.seconds / self.jobs
