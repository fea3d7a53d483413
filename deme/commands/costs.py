"""How long the runs of a suite take, from finished runs on this machine, else from its estimate."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deme.runs import Node, Suite, seconds_of
from deme.system import DemeError


@dataclass(frozen=True)
class Rate:
    """Seconds per forward pass in one process, and whether finished runs measured it."""

    seconds: float
    is_measured: bool


def rate_of(suite: Suite, states: Mapping[Node, str], passes: Mapping[Node, int]) -> Rate | None:
    """Return the speed of a suite's runs; None if neither finished runs nor the suite give it."""
    done = [node for node, state in states.items() if state == "done" and passes[node]]
    seconds = sum(seconds_of(node.run.path) for node in done if node.run is not None)
    if done and seconds:
        return Rate(seconds / sum(passes[node] for node in done), True)
    estimate = suite.settings.plan.seconds_per_million_forward_passes
    return Rate(estimate / 1e6, False) if estimate else None


@dataclass
class TimeLeft:
    """The remaining time of a suite's runs in several processes, updated as runs finish."""

    suite: Suite
    jobs: int
    passes: dict[Node, int] = field(default_factory=dict)

    def seconds(self) -> float | None:
        """Return the remaining seconds; None if the rate or the cost of a row is unknown."""
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
