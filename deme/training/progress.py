"""Progress for people: a bar on a terminal, a line every tenth of the way elsewhere."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressLines(pl.Callback):
    """Print step, loss and the time left about ten times a run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._begin = (0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        step, total = trainer.global_step, trainer.max_steps
        if step % max(1, total // 10) == 0 and step > self._begin[0]:
            each = (time.monotonic() - self._begin[1]) / (step - self._begin[0])
            losses = [
                f"{k} {float(v):.4f}"
                for k, v in trainer.logged_metrics.items()
                if k.startswith("loss")
            ]
            parts = [f"step {step}/{total}", *losses, f"{each * (total - step):.0f} s left"]
            print(f"  {self.name}: {', '.join(parts)}", flush=True)


def progress(name: str) -> pl.Callback:
    """Return the callback that fits where standard error goes."""
    return TQDMProgressBar(refresh_rate=20) if sys.stderr.isatty() else ProgressLines(name)
