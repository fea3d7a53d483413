"""Callbacks of the training loop: checkpoints, the training curve and a progress bar."""

import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deme.system import Bar, Stopped, append_line, atomic, reopen_jsonl, signals
from deme.training.due import Due, is_recorded
from deme.training.module import DiffusionModule
from deme.training.sharding import full_tensors

NOTHING: Mapping[str, float] = MappingProxyType({})
Row = Mapping[str, float | None]  # what is recorded of a step, by name; None: not finite


def ignore(_: Row) -> None:
    """Do nothing with a row of the curve."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all, in the first process of several."""

    def __init__(self, writes: bool = True) -> None:
        super().__init__()
        self.writes = writes

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        checkpoint = full_tensors(checkpoint)
        if self.writes:
            with atomic(Path(path)) as file:
                torch.save(checkpoint, file)


class JsonlLogger(Logger):
    """Append the training curve, {"step": ..., name: value, ...}, to a file every `every` steps.

    The last of `num_steps` steps has a row too. The speed in images per second and the time are
    written to speed.jsonl in the same folder, because they differ when a run is repeated.
    `num_images`: images per step. When it stops, Lightning logs its last values again; this row is
    left out. `on_row` is called with all values recorded at a step.
    """

    name = "jsonl"
    version = ""

    def __init__(
        self,
        path: Path,
        every: int,
        num_steps: int,
        num_images: int = 0,
        on_row: Callable[[Row], None] = ignore,
    ) -> None:
        super().__init__()
        self.path, self.every, self.num_steps = path, every, num_steps
        self.num_images, self.on_row = num_images, on_row
        self.speed = path.with_name("speed.jsonl")
        self._last: int | None = None
        self._clock: tuple[int, float] | None = None  # steps taken, and when

    def start_clock(self, step: int) -> None:
        """Begin to measure the speed, after `step` steps."""
        self._clock = step, time.monotonic()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        if metrics.keys() - {"epoch"} and self._is_logged(step):
            self.write(step, metrics)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the row of a step unless it exists; step -1 is the row before the training."""
        if step == self._last:
            return
        self._last = step
        row = {
            name: value if math.isfinite(value) else None  # JSON has no NaN
            for name, value in metrics.items()
            if name != "epoch"
        }
        append_line(self.path, json.dumps({"step": step, **row}))
        self.on_row({"step": step, **row, **self._timed(step)})

    def _is_logged(self, step: int) -> bool:
        return is_recorded(step + 1, self.every, self.num_steps)

    def leave_out(self, seconds: float) -> None:
        """Exclude `seconds` in which no images were trained on from the speed."""
        if self._clock is not None:
            self._clock = self._clock[0], self._clock[1] + seconds

    def _timed(self, step: int) -> Row:
        """Record the time of a row, and the speed if it is a row of training; return both."""
        if self._clock is None:
            return {}
        timed: dict[str, float] = {"time": round(time.time(), 3)}
        if self._is_logged(step):
            (before, began), now = self._clock, time.monotonic()
            self._clock = step + 1, now
            rate = (step + 1 - before) * self.num_images / max(now - began, 1e-9)
            timed = {"images_per_second": round(rate, 3), **timed}
        append_line(self.speed, json.dumps({"step": step, **timed}))
        return timed

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing: config.yaml holds them."""

    def rewind(self, step: int) -> None:
        """Remove what was logged at or after `step`: the resumed run logs it again."""
        rows, timed = (
            reopen_jsonl(
                file,
                dict[str, float | None],
                lambda row: step > 0 and (row.get("step") or 0) < step,
            )
            for file in (self.path, self.speed)
        )
        known = {row.get("step"): row for row in timed}
        for row in rows:
            self.on_row({**row, **known.get(row.get("step"), {})})


class AfterStep(pl.Callback):
    """A callback that acts after optimizer steps, and not between the batches of one.

    Gradients of an unfinished step are in no checkpoint.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.micro_step % trainer.accumulate_grad_batches == 0:
            self.after_step(trainer, pl_module)

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        """Act: `trainer.global_step` optimizer steps are taken."""
        raise NotImplementedError


class SaveSnapshots(AfterStep):
    """Call `write(step)` every `every` optimizer steps and after the last one.

    It comes before `SaveLast`: a run that goes on from the checkpoint of a step has its snapshot,
    and one that goes on from an earlier checkpoint writes the same snapshot again. All processes of
    a group call `write`.
    """

    def __init__(self, every: int, write: Callable[[int], None]) -> None:
        self.every, self.write = every, write

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        if step % self.every == 0 or step >= trainer.max_steps:
            module.check_finite()
            self.write(step)


def recorded(trainer: pl.Trainer) -> dict[str, float]:
    """Return the values that the curve records of the step just taken, {} if it has no row."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if not is_recorded(trainer.global_step, every, trainer.max_steps):
        return {}
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


class SaveLast(AfterStep):
    """Save `path` whenever a checkpoint is `due`; on a stop signal save at once and end training.

    Lightning logs a step after these hooks, so the values of the step are written to the curve
    first: otherwise a run killed in between would resume after that step, and its row would be
    missing. The last step, which Lightning logs only if it is one of every few, is written here
    too, and saved with `keep`. All processes of a group save and stop at the same steps, and the
    first one writes.
    """

    def __init__(self, path: Path, due: Due, curve: JsonlLogger, keep: bool = False) -> None:
        self.path, self.due, self.curve, self.keep = path, due, curve, keep
        self.stopped: Stopped | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has replaced our handlers by its own; ours stop cleanly at the next step.
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(signal.SIGINT) is signals.receive:
                signal.signal(signum, signals.receive)
        self.curve.start_clock(trainer.global_step)
        self.due.start()

    def after_step(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        group = module.group
        code, due = getattr(signals.pending(), "exit_code", 0), int(self.due(trainer.global_step))
        if group is not None:  # one message for both: clocks and signals differ between processes
            code, due = divmod(group.all_reduce_max(2 * code + due), 2)
        if trainer.global_step >= trainer.max_steps:
            is_first = group is None or group.rank == 0
            if is_first:
                self._record(trainer)
            if self.keep and (is_first or module.is_sharded):
                trainer.save_checkpoint(self.path)
            return  # training is done: the weights are written before the signal counts
        if code:
            self.stopped = signals.pending() or signals.stopped(code)
            trainer.should_stop = True
        if code or due:
            module.check_finite()
            self.due.start()
            is_first = group is None or group.rank == 0
            if is_first:
                self._record(trainer)
            if is_first or module.is_sharded:
                trainer.save_checkpoint(self.path)

    def _record(self, trainer: pl.Trainer) -> None:
        if values := recorded(trainer):
            self.curve.log_metrics(values, trainer.global_step - 1)


class ShowProgress(pl.Callback):
    """Advance a progress bar at every optimizer step of `num_images` images.

    It also shows the last logged losses, the learning rate, images per second, and the last of the
    `held_out` losses, which another callback measures.
    """

    def __init__(
        self, bar: Bar, first_step: int, num_images: int, held_out: Mapping[str, float] = NOTHING
    ) -> None:
        self.bar, self.step, self.num_images = bar, first_step, num_images
        self.held_out = held_out
        self.losses: dict[str, str] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object
    ) -> None:
        if values := recorded(trainer):
            self.losses = {
                name: f"{value:.4f}" for name, value in values.items() if name.startswith("loss")
            }
        if trainer.global_step > self.step:
            held_out = {name: f"{value:.5f}" for name, value in [*self.held_out.items()][:1]}
            shown = {
                **self.losses,
                **held_out,
                "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}",
            }
            if rate := self.bar.rate:
                shown["images/s"] = f"{rate * self.num_images:,.0f}"
            self.bar.advance(trainer.global_step - self.step, **shown)
            self.step = trainer.global_step
