"""Judge a training while it goes, without changing it: weights and random numbers stay as they are.

The first process of a group judges, the others wait for it at the next step.
"""

import time
from collections.abc import Callable

import pytorch_lightning as pl

from deme.diffusion import seeded
from deme.system import logger
from deme.training.callbacks import JsonlLogger, recorded
from deme.training.due import Due
from deme.training.module import DiffusionModule

BEFORE_TRAINING = -1  # the step of the curve's row: that of step k is from before update k + 1


class Validate(pl.Callback):
    """Call `measure(steps taken)` before the first step, whenever it is `due`, and after the last.

    What it returns is added to the curve's row of the step, and is in `last` until the next time.
    It comes before `SaveLast`: a run that goes on from the checkpoint of a step has its row. None
    as `measure`: another process does it.
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
            self._judge(trainer, pl_module)
            if pl_module.group is not None:
                pl_module.group.all_reduce_max(0)  # it waits for longer than gradients do
            self.due.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.micro_step % trainer.accumulate_grad_batches:
            return
        if self.due(trainer.global_step) or trainer.global_step >= trainer.max_steps:
            self._judge(trainer, pl_module)
            self.due.start()

    def _judge(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        if self.measure is None:
            return
        began, step = time.monotonic(), trainer.global_step
        with seeded(module.device, "validation"):  # and torch's own random state as it was
            found = self.measure(step)
        self.curve.leave_out(time.monotonic() - began)
        self.last.update(found)
        texts = (f"{name} {value:.5f}" for name, value in found.items())
        logger.info("after %d steps: %s", step, ", ".join(texts))
        self.curve.write(step - 1 if step else BEFORE_TRAINING, {**recorded(trainer), **found})
