"""Train a DiffusionModule to its last step, from a checkpoint if there is one."""

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger

from deme.data import EncodedDataset, Images
from deme.system import signals
from deme.system.errors import BadConfig, WorkFailed
from deme.training.batches import StepBatches, StepLoader
from deme.training.callbacks import AtomicCheckpointIO, SaveLast
from deme.training.distributed import Team
from deme.training.jsonl_logger import JsonlLogger
from deme.training.module import DiffusionModule
from deme.training.progress import progress

ABOUT_ITSELF = (
    ".*num_workers.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*logging interval.*",
)  # Lightning


@dataclass(frozen=True)
class Loop:
    """How long and on what to train: `num_steps` optimizer steps of `accumulate` batches of `batch_size` over all processes."""

    num_steps: int
    batch_size: int
    seed: int
    accumulate: int = 1
    gradient_clip: float | None = 1.0
    random_flip: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    device: int = 0  # which GPU
    num_workers: int = 0
    checkpoint_every: int = 500
    log_every: int = 50


def training_logger(run: Any) -> WandbLogger:
    """Return Lightning's logger for an open run of wandb."""
    return WandbLogger(experiment=run)


def fit(
    module: DiffusionModule,
    images: Images | EncodedDataset,
    loop: Loop,
    folder: Path,
    name: str,
    loggers: Sequence[Logger] = (),
) -> int:
    """Train; checkpoints and metrics.jsonl go below `folder`. Return the step training started from.

    Where the module has a team, all its processes call this, and its first one writes. Raises the pending Interrupted or
    Preempted after saving, WorkFailed for a NaN loss, a damaged checkpoint or a process that was lost.
    """
    team = module.team
    rank, size = (team.rank, team.size) if team is not None else (0, 1)
    if loop.batch_size % size:
        raise BadConfig(
            f"batch_size={loop.batch_size} is that of all {size} processes together, and must be divisible by {size}\n"
            f"type: batch_size={loop.batch_size // size * size or size}"
        )
    checkpoint = folder / "checkpoints" / "last.ckpt"
    curve = JsonlLogger(folder / "metrics.jsonl")
    logging.getLogger("pytorch_lightning").setLevel(
        logging.WARNING
    )  # its notices on devices, tips and max_steps
    with warnings.catch_warnings():
        for text in ABOUT_ITSELF:
            warnings.filterwarnings("ignore", text)
        save = SaveLast(checkpoint, loop.checkpoint_every, curve, loop.log_every)
        first = rank == 0
        trainer = make_trainer(
            loop,
            [curve, *loggers] if first else [],
            [save, progress(name)] if first else [save],
            bar=first,
        )
        batches = StepBatches(
            len(images),
            loop.batch_size // size,
            loop.num_steps * loop.accumulate,
            loop.seed,
            first=lambda: trainer.global_step * loop.accumulate,
            rank=rank,
            world_size=size,
            mirror=loop.random_flip,
        )
        first_step = step_of(checkpoint)
        if first:
            curve.rewind(first_step)  # the run will write these lines again
        if team is not None:
            start_together(team, first_step)
        loader = StepLoader(images, batches, loop.num_workers, trainer.strategy.root_device)
        with signals.graceful():
            trainer.fit(
                module, loader, weights_only=True, ckpt_path=checkpoint if first_step else None
            )
            stop = save.stopped or signals.pending()
            if trainer.global_step >= trainer.max_steps:
                stop = None  # the weights are written first; the signal stays pending
        if stop is not None:
            signals.clear()
    for optimizer in trainer.optimizers:  # weights are all that is needed from here on
        optimizer.state.clear()
    module.zero_grad()
    if stop is not None:
        raise stop
    module.check_finite()
    return first_step


def start_together(team: Team, first_step: int) -> None:
    """Wait until all processes are ready. Raises WorkFailed unless they start from the same step."""
    steps = [word["step"] for word in team.exchange("start", step=first_step)]
    if len(set(steps)) > 1:
        raise WorkFailed(
            f"the processes of this run see checkpoints of different steps: {', '.join(map(str, steps))}\n"
            "paths.runs must be on a disk that all of them see"
        )


def make_trainer(
    loop: Loop, loggers: list[Logger], callbacks: list[pl.Callback], bar: bool = True
) -> pl.Trainer:
    """Return Lightning's trainer of one process and one device, wherever it runs. Raises BadConfig for what it refuses."""
    try:
        return pl.Trainer(
            accelerator=loop.accelerator,
            devices=[loop.device] if loop.accelerator == "gpu" else 1,
            precision=loop.precision,  # type: ignore[arg-type]
            max_steps=loop.num_steps,
            max_epochs=-1,
            accumulate_grad_batches=loop.accumulate,
            gradient_clip_val=loop.gradient_clip,
            logger=loggers,
            log_every_n_steps=loop.log_every,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar and sys.stderr.isatty(),
            use_distributed_sampler=False,
            plugins=[
                AtomicCheckpointIO(),
                LightningEnvironment(),
            ],  # never torchrun's or SLURM's: see deme/training/team.py
            callbacks=callbacks,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise BadConfig(f"compute: {error}") from error


def step_of(checkpoint: Path) -> int:
    """Return the step of the checkpoint, 0 without one. Raises WorkFailed for a damaged one."""
    if not checkpoint.exists():
        return 0
    try:
        return int(
            torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        )
    except Exception as error:
        raise WorkFailed(
            f"{checkpoint} is damaged: {str(error).splitlines()[0][:200]}\ndelete it to train from the start"
        ) from error
