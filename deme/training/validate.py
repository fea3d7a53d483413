"""Validate during training without changing it: weights and random states are restored.

The first process of a group validates, and the others wait for it at the next step; with a sharded
model, all of them compute.
"""

import time
from collections.abc import Callable

import pytorch_lightning as pl

from deme.diffusion import seeded
from deme.system import logger
from deme.training.callbacks import AfterStep, JsonlLogger, recorded
from deme.training.due import Due
from deme.training.module import DiffusionModule

BEFORE_TRAINING = -1  # step of the row before training: row k is written before update k + 1


class Validate(AfterStep):
    """Call `measure(steps taken)` before the first step, whenever it is `due`, and after the last.

    The values are added to the curve's row of the step, and stay in `last` until the next time.
    This callback must precede `SaveLast`, so that a run that resumes from the checkpoint of a step
    has its row. `measure` is None in processes that do not validate.
    """

    def __init__(
        self, measure: Callable[[int], dict[str, float]] | None, due: Due, curve: JsonlLogger
    ) -> None:
        self.measure, self.due, self.curve = measure, due, curve
        self.last: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.due.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if trainer.global_step == 0:
            self._validate(trainer, pl_module)
            if pl_module.group is not None:
                pl_module.group.all_reduce_max(0)  # it waits for longer than gradients do
            self.due.start()

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        if self.due(trainer.global_step) or trainer.global_step >= trainer.max_steps:
            self._validate(trainer, module)
            self.due.start()

    def _validate(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        if self.measure is None:
            return
        began, step = time.monotonic(), trainer.global_step
        with seeded(module.device, "validation"):  # and torch's own random state as it was
            found = self.measure(step)
        self.curve.leave_out(time.monotonic() - began)
        self.last.update(found)
        texts = (f"{name} {value:.5f}" for name, value in found.items())
        logger.info("after %d steps: %s", step, ", ".join(texts))
        if module.is_first:
            self.curve.write(step - 1 if step else BEFORE_TRAINING, {**recorded(trainer), **found})
