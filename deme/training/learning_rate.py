"""Learning-rate schedules: step -> factor on the optimizer's lr."""

import math


class ConstantRate:
    """Factor 1 after `warmup_steps` linear warm-up steps."""

    def __init__(self, num_steps: int, warmup_steps: int = 0) -> None:
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


class CosineRate(ConstantRate):
    """Warm-up, and half a cosine from 1 at step 0 to 0 at `num_steps`."""

    def __call__(self, step: int) -> float:
        return (
            super().__call__(step)
            * 0.5
            * (1 + math.cos(math.pi * min(step, self.num_steps) / self.num_steps))
        )
