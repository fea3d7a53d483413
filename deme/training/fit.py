"""Train a DiffusionModule to its last step, from a checkpoint if there is one."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.loggers.logger import Logger

from deme.data import EncodedDataset, Images
from deme.models.checkpoint import read_pickle
from deme.system import BadConfig, WorkFailed, first_line, progress, signals
from deme.training.batches import StepBatches, StepLoader
from deme.training.callbacks import (
    AtomicCheckpointIO,
    JsonlLogger,
    Row,
    SaveLast,
    SaveSnapshots,
    ShowProgress,
    ignore,
)
from deme.training.distributed import ProcessGroup
from deme.training.due import Due
from deme.training.module import DiffusionModule
from deme.training.validate import Validate

# the checkpoint from which Lightning resumes
RESTORED = {
    "global_step": int,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
}
LIGHTNING = ("pytorch_lightning", "lightning_fabric")


@dataclass(frozen=True)
class Loop:
    """How long and on what to train.

    `num_steps` optimizer steps of `accumulate` batches of `batch_size` over all processes.
    """

    num_steps: int
    batch_size: int
    seed: int | str
    accumulate: int = 1
    gradient_clip: float | None = 1.0
    random_flip: bool = False
    precision: str = "32-true"
    accelerator: str = "auto"
    device: int = 0  # which GPU
    num_workers: int = 0
    checkpoint_every: int = 500
    checkpoint_minutes: float | None = None
    log_every: int = 50
    snapshots_every: int | None = None  # optimizer steps
    validate_every: int | None = None  # optimizer steps
    validate_minutes: float | None = None
    keep_checkpoint: bool = False

    @property
    def validates(self) -> bool:
        """Whether the model is validated during training."""
        return self.validate_every is not None or self.validate_minutes is not None


def fit(
    module: DiffusionModule,
    images: Images | EncodedDataset,
    loop: Loop,
    folder: Path,
    on_row: Callable[[Row], None] = ignore,
    write_snapshot: Callable[[int], None] = lambda _: None,
    measure: Callable[[int], dict[str, float]] | None = None,
) -> int:
    """Train; checkpoints and metrics.jsonl are written to `folder`. Return the first step.

    The first step is 0, or that of the checkpoint from which the training resumes. `on_row` is
    called with every row of the curve, starting with those of an earlier attempt; `write_snapshot`
    with the number of steps taken. `measure` is called with the number of steps taken when the loop
    asks for validation; its values are added to the curve, and it must not change the module. All
    processes of the module's group call this function, and the first one writes. Raises the pending
    Interrupted or Preempted after saving, WorkFailed for a NaN loss, a damaged checkpoint or a lost
    process.
    """
    group = module.group
    rank, size = (group.rank, group.size) if group is not None else (0, 1)
    if loop.batch_size % size:
        raise BadConfig(
            f"batch_size={loop.batch_size} is that of all {size} processes together, "
            f"and must be divisible by {size}\n"
            f"type: batch_size={loop.batch_size // size * size or size}"
        )
    checkpoint = folder / "checkpoints" / "last.ckpt"
    first_step = step_of(checkpoint)
    num_images = loop.batch_size * loop.accumulate
    file = folder / "metrics.jsonl"
    curve = JsonlLogger(file, loop.log_every, loop.num_steps, num_images, on_row)
    save = SaveLast(
        checkpoint, Due(loop.checkpoint_every, loop.checkpoint_minutes), curve, loop.keep_checkpoint
    )
    validate = Validate(measure, Due(loop.validate_every, loop.validate_minutes), curve)
    every = loop.snapshots_every
    snapshots = [SaveSnapshots(every, write_snapshot)] if every is not None else []
    if rank == 0:
        curve.rewind(first_step)  # the run will write these lines again
    with (
        _lightning_quiet(),
        progress(folder.name, loop.num_steps, "steps", start=first_step) as bar,
    ):
        trainer = make_trainer(
            loop,
            [curve] if rank == 0 else [],
            [
                *snapshots,
                *([validate] if loop.validates else []),
                save,
                ShowProgress(bar, first_step, num_images, validate.last),
            ],
            rank == 0,
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
            window=module.method.lookahead,
        )
        if group is not None:
            start_together(group, first_step)
        loader = StepLoader(images, batches, loop.num_workers, trainer.strategy.root_device)
        reachable = group.reachable() if group is not None else contextlib.nullcontext()
        with signals.graceful():
            try:
                with reachable:
                    trainer.fit(
                        module,
                        loader,
                        weights_only=True,
                        ckpt_path=checkpoint if first_step else None,
                    )
            except SystemExit:  # Lightning's, for a SIGTERM that came before its first step
                if signals.pending() is None:
                    raise
            stop = save.stopped or signals.pending()
            if trainer.global_step >= trainer.max_steps:
                stop = None  # the weights are written first; the signal stays pending
        if stop is not None:
            signals.clear()
    for optimizer in trainer.optimizers:  # only the weights are needed from here on
        optimizer.state.clear()
    module.zero_grad()
    if stop is not None:
        raise stop
    module.check_finite()
    return first_step


@contextlib.contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Show none of Lightning's notices: how it is used is not the user's business."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        # autocast does not cast norms' weights: torch then takes a slower kernel
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        warnings.filterwarnings("ignore", module=rf"({'|'.join(LIGHTNING)})\.")
        yield


def start_together(group: ProcessGroup, first_step: int) -> None:
    """Wait for all processes. Raises WorkFailed unless they start from the same step."""
    steps = group.all_gather(first_step)
    if len(set(steps)) > 1:
        raise WorkFailed(
            "the processes of this run see checkpoints of different steps: "
            f"{', '.join(map(str, steps))}\n"
            "paths.runs must be on a disk that all of them see"
        )


def make_trainer(
    loop: Loop, loggers: Sequence[Logger], callbacks: Sequence[pl.Callback], writes: bool = True
) -> pl.Trainer:
    """Return Lightning's trainer of one process and one device. Raises BadConfig if it refuses.

    `writes`: whether this process writes checkpoints.

    It does not see torchrun or SLURM: see deme/training/distributed.py.
    """
    try:
        return pl.Trainer(
            accelerator=loop.accelerator,
            devices=[loop.device] if loop.accelerator == "gpu" else 1,
            precision=loop.precision,  # type: ignore[arg-type]
            max_steps=loop.num_steps,
            max_epochs=-1,
            accumulate_grad_batches=loop.accumulate,
            gradient_clip_val=loop.gradient_clip,
            logger=list(loggers),
            log_every_n_steps=loop.log_every,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO(writes), LightningEnvironment()],
            callbacks=list(callbacks),
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise BadConfig(f"compute: {first_line(error)}") from error


def step_of(checkpoint: Path) -> int:
    """Return the step of the checkpoint, 0 without one. Raises WorkFailed for a damaged one."""
    if not checkpoint.exists():
        return 0
    try:
        found = read_pickle(checkpoint)
        for name, kind in RESTORED.items():
            if not isinstance(found, dict) or not isinstance(found.get(name), kind):
                raise WorkFailed(f"it has no {name}")
        return int(found["global_step"])  # type: ignore[index]
    except WorkFailed as error:
        reason = first_line(error).removeprefix(f"{checkpoint} is damaged: ")
        raise WorkFailed(
            f"{checkpoint} is damaged: {reason:.300}\ndelete it to train from the start"
        ) from error
