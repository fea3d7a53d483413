"""What happens beside the training loop: checkpoints, the training curve and a progress bar."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deme.runs import tracking
from deme.system import Bar, Stopped, append_line, atomic, reopen_jsonl, signals
from deme.training.module import DiffusionModule

if TYPE_CHECKING:
    from deme.runs.tracking import Tracker


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        with atomic(Path(path)) as file:
            torch.save(checkpoint, file)


class JsonlLogger(Logger):
    """The training curve: append {"step": ..., name: value, ...} to a file every `every` steps.

    Lightning also logs when it stops, what it logged last; such a row is no step's and is left out.
    The rows go to `tracker`, too.
    """

    name = "jsonl"
    version = ""

    def __init__(self, path: Path, every: int, tracker: "Tracker | None" = None) -> None:
        super().__init__()
        self.path, self.every, self.tracker = path, every, tracker
        self._last: int | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        row = {
            name: value if math.isfinite(value) else None  # JSON has no NaN
            for name, value in metrics.items()
            if name != "epoch"
        }
        if row and step != self._last and (step + 1) % self.every == 0:  # a step has one line
            self._last = step
            append_line(self.path, json.dumps({"step": step, **row}))
            tracking.log(self.tracker, step, row)

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing: config.yaml holds them."""

    def rewind(self, step: int) -> None:
        """Remove what was logged at or after `step`: the resumed run logs it again."""
        kind = dict[str, float | None]
        for row in reopen_jsonl(self.path, kind, lambda row: (row.get("step") or 0) < step):
            tracking.log(self.tracker, int(row.pop("step", None) or 0), row)


class SaveSnapshots(pl.Callback):
    """Call `write(step)` every `every` optimizer steps and after the last one.

    It comes before `SaveLast`: a run that goes on from the checkpoint of a step has its snapshot,
    and one that goes on from an earlier checkpoint writes the same snapshot again. All processes of
    a group check their losses, and the first one writes.
    """

    def __init__(self, every: int, write: Callable[[int], None]) -> None:
        self.every, self.write = every, write

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.micro_step % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step % self.every == 0 or step >= trainer.max_steps:
            pl_module.check_finite()
            if pl_module.group is None or pl_module.group.rank == 0:
                self.write(step)


class SaveLast(pl.Callback):
    """Save `path` every `every` optimizer steps; on a stop signal save at once and end training.

    Lightning logs a step after these hooks, so what the step logged is written to the curve first:
    a run killed in between would resume after that step and lack its line. All processes of a group
    stop at the same step, and the first one saves.
    """

    def __init__(self, path: Path, every: int, curve: JsonlLogger) -> None:
        self.path, self.every, self.curve = path, every, curve
        self.stopped: Stopped | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has replaced our handlers by its own; ours stop cleanly at the next step.
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(signal.SIGINT) is signals.receive:
                signal.signal(signum, signals.receive)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.micro_step % trainer.accumulate_grad_batches:
            return  # gradients of an unfinished step are in no checkpoint
        group = pl_module.group
        code = getattr(signals.pending(), "exit_code", 0)
        if group is not None:
            code = group.all_reduce_max(code)
        if trainer.global_step >= trainer.max_steps:
            return  # training is done: the weights are written before the signal counts
        if code:
            self.stopped = signals.pending() or signals.stopped(code)
            trainer.should_stop = True
        if code or trainer.global_step % self.every == 0:
            pl_module.check_finite()
            if group is not None and group.rank > 0:
                return
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                values = {name: float(value) for name, value in trainer.callback_metrics.items()}
                self.curve.log_metrics(values, trainer.global_step - 1)
            trainer.save_checkpoint(self.path)


class ShowProgress(pl.Callback):
    """Advance a progress bar by every optimizer step, with the losses that were logged last."""

    def __init__(self, bar: Bar, first_step: int) -> None:
        self.bar, self.step = bar, first_step
        self.losses: dict[str, str] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.losses = {
                name: f"{float(value):.4f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("loss")
            }
        if trainer.global_step > self.step:
            self.bar.advance(trainer.global_step - self.step, **self.losses)
            self.step = trainer.global_step
