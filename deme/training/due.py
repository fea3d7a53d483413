"""When a periodic action of a training is due: a checkpoint, a row of the curve, a validation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def is_recorded(step: int, every: int, last: int) -> bool:
    """Whether the curve has a row of this optimizer step: every `every`-th and the last."""
    return step > 0 and (step % every == 0 or step == last)


@dataclass
class Due:
    """Due every `steps` optimizer steps, and `minutes` after the last time; None: not by that.

    Minutes are wall time of this process since `start`. `clock` returns seconds.
    """

    steps: int | None
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    _last: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Restart the minutes: the work begins, or the action has been done."""
        self._last = self.clock()

    def __call__(self, step: int) -> bool:
        """Whether the action is due after `step` optimizer steps."""
        if self.steps is not None and step % self.steps == 0:
            return True
        if self.minutes is None or self._last is None:
            return False
        return self.clock() - self._last >= 60 * self.minutes
