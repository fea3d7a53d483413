"""Checkpoints that survive a kill, and a stop on request at a step boundary."""

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deme.system import signals
from deme.system.errors import Stopped
from deme.system.files import atomic
from deme.training.jsonl_logger import JsonlLogger
from deme.training.module import DiffusionModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with atomic(Path(path)) as file:
            torch.save(checkpoint, file)


class SaveLast(pl.Callback):
    """Save `path` every `every` optimizer steps; on a stop signal save at once and end training.

    Lightning logs a step after these hooks. What the step logged is written to the curve first: a run killed in between
    would go on after it without its line. In a team all stop at the same step, and the first process saves.
    """

    def __init__(self, path: Path, every: int, curve: JsonlLogger, log_every: int) -> None:
        self.path = path
        self.stopped: Stopped | None = None
        self.every = every
        self.curve = curve
        self.log_every = log_every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handlers in front of ours by now; ours stop cleanly at the next step.
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(signal.SIGINT) is signals.receive:
                signal.signal(signum, signals.receive)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.micro_step % trainer.accumulate_grad_batches:
            return  # gradients of an unfinished step are in no checkpoint
        team = pl_module.team
        code = getattr(signals.pending(), "exit_code", 0)
        if team is not None:
            code = team.most(code)
        if trainer.global_step >= trainer.max_steps:
            return  # it is done: the weights are written, then the signal counts
        if code:
            self.stopped = signals.pending() or signals.stopped(code)
        if code or trainer.global_step % self.every == 0:
            pl_module.check_finite()
            if team is None or team.rank == 0:
                self._save(trainer)
        if code:
            trainer.should_stop = True

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step % self.log_every == 0:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.curve.log_metrics(values, trainer.global_step - 1)
        trainer.save_checkpoint(self.path)
