"""Train a DiffusionModule to its last step, from a checkpoint if there is one."""

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers.logger import Logger

from deme import signals
from deme.data import Images
from deme.errors import BadConfig, WorkFailed
from deme.training.batches import StepBatches, StepLoader
from deme.training.callbacks import AtomicCheckpointIO, SaveLast
from deme.training.jsonl_logger import JsonlLogger
from deme.training.module import DiffusionModule
from deme.training.progress import progress


@dataclass(frozen=True)
class Loop:
    """How long and on what to train: `num_steps` optimizer steps of `accumulate` batches of `batch_size` per process."""

    num_steps: int
    batch_size: int
    seed: int
    accumulate: int = 1
    gradient_clip: float | None = 1.0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_workers: int = 0
    checkpoint_every: int = 500
    log_every: int = 50


def fit(
    module: DiffusionModule, images: Images, loop: Loop, folder: Path, name: str, loggers: Sequence[Logger] = ()
) -> int:
    """Train; checkpoints and metrics.jsonl go below `folder`. Return the step training started from.

    Raises the pending Interrupted or Preempted after saving, WorkFailed for a NaN loss or a damaged checkpoint.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    curve = JsonlLogger(folder / "metrics.jsonl")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its notices on devices, tips and max_steps
    with warnings.catch_warnings():
        for text in (".*num_workers.*", ".*GPU available but not used.*", ".*LeafSpec.*"):  # Lightning's, about itself
            warnings.filterwarnings("ignore", text)
        trainer = make_trainer(
            loop,
            [curve, *loggers],
            [SaveLast(checkpoint, loop.checkpoint_every, curve, loop.log_every), progress(name)],
        )
        batches = StepBatches(
            len(images),
            loop.batch_size,
            loop.num_steps * loop.accumulate,
            loop.seed,
            first=lambda: trainer.global_step * loop.accumulate,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        first_step = rewind(curve, checkpoint)
        with signals.graceful():
            trainer.fit(
                module,
                StepLoader(images, batches, loop.num_workers),
                weights_only=True,
                ckpt_path=checkpoint if checkpoint.exists() else None,
            )
            stop = signals.pending()
        signals.clear()
    if stop is not None:
        raise stop
    module.check_finite()
    return first_step


def make_trainer(loop: Loop, loggers: list[Logger], callbacks: list[pl.Callback]) -> pl.Trainer:
    """Return Lightning's trainer for the loop. Raises BadConfig for settings that it refuses."""
    try:
        return pl.Trainer(
            accelerator=loop.accelerator,
            devices=loop.devices,
            precision=loop.precision,  # type: ignore[arg-type]
            max_steps=loop.num_steps,
            max_epochs=-1,
            accumulate_grad_batches=loop.accumulate,
            gradient_clip_val=loop.gradient_clip,
            logger=loggers,
            log_every_n_steps=loop.log_every,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
            callbacks=callbacks,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise BadConfig(f"compute: {error}") from error


def rewind(curve: JsonlLogger, checkpoint: Path) -> int:
    """Drop logged lines that the run will write again; return the step of the checkpoint (0 without one)."""
    step = 0
    if checkpoint.exists():
        try:
            step = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
        except Exception as error:
            raise WorkFailed(
                f"{checkpoint} is damaged: {str(error).splitlines()[0][:200]}\ndelete it to train from the start"
            ) from error
    curve.rewind(step)
    return step
