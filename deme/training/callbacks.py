"""Checkpoints that survive a kill, and a stop on request at a step boundary."""

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deme import signals
from deme.files import atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic(Path(path)) as file:
            torch.save(checkpoint, file)


class SaveLast(pl.Callback):
    """Save `path` every `every` optimizer steps; on a stop signal save at once and end training."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._saved_at = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handlers in front of ours by now; ours stop cleanly at the next step.
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(signal.SIGINT) is signals.receive:
                signal.signal(signum, signals.receive)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        stop = signals.pending() is not None
        if step != self._saved_at and (stop or step % self.every == 0) and step < trainer.max_steps:
            self._saved_at = step
            trainer.save_checkpoint(self.path)
        if stop:
            trainer.should_stop = True
