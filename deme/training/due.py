"""When something is done that a training does now and then: a checkpoint, a row of its curve."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def is_recorded(step: int, every: int, last: int) -> bool:
    """Whether the curve has a row of the `step`-th optimizer step: each `every`-th and the last."""
    return step > 0 and (step % every == 0 or step == last)


@dataclass
class Due:
    """Every `steps` optimizer steps, and `minutes` after the last time; None: not by that.

    Minutes are wall time of this process, from `start` on. `clock` returns seconds.
    """

    steps: int | None
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    _last: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to count minutes: the work begins, or what was due is done."""
        self._last = self.clock()

    def __call__(self, step: int) -> bool:
        """Whether it is due after `step` optimizer steps."""
        if self.steps is not None and step % self.steps == 0:
            return True
        if self.minutes is None or self._last is None:
            return False
        return self.clock() - self._last >= 60 * self.minutes
