"""Checks of `deme train`: the base, the teacher, and what several processes can do."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from deme.commands.arguments import check_device
from deme.report.typed_options import chosen_option
from deme.runs import (
    Run,
    TrainSettings,
    check_continued,
    find_snapshots,
    frozen_config,
    snapshot_folder,
    takes_ema,
    weights_folder,
)
from deme.system import BadConfig, MissingInput, files, locate, logger

CHECKPOINT = "checkpoints/last.ckpt"
_warned: set[str] = set()  # bases that this process has warned of; it may train several models

if TYPE_CHECKING:
    from deme.data import ImageData
    from deme.methods import Method
    from deme.models.denoiser import DenoisingModel


def check_passport(
    run: Run, settings: TrainSettings, model: "DenoisingModel", data: "ImageData", device: str
) -> None:
    """Store the passport of the base. Raises BadConfig if the config contradicts the weights."""
    from deme.evaluation.passport import (
        BATCH,
        format_passport,
        load_passport,
        raw_warning,
        refuse_contradicted,
    )

    count, batch_size = settings.passport.num_images, min(BATCH, settings.batch_size)
    passport = load_passport(settings, model, data, device, count, batch_size)
    if run.is_main_process:
        files.write_json(run.path / "passport.json", passport)
    for line in format_passport(passport):
        logger.info(line)
    level = logging.INFO if (model_path := passport["model"]) in _warned else logging.WARNING
    for line in raw_warning(passport):
        logger.log(level, line)
    _warned.add(model_path)
    if settings.passport.contradicted == "refuse":
        refuse_contradicted(passport)


def teacher_folder(run: Run) -> Path | None:
    """Return the model folder of inputs.teacher, if one is given."""
    return run.weights_folders("teacher")[0] if run.single_input("teacher") is not None else None


def warn_if_teacher_is_raw(run: Run, settings: TrainSettings) -> None:
    """Warn if the consistency loss keeps the model near weights that are not averaged."""
    from deme.evaluation.passport import warn_of_raw_teacher

    given = teacher_folder(run)
    place = str(given) if given is not None else settings.model.get("path")
    if settings.has_consistency and not settings.teacher_is_average and place is not None:
        warn_of_raw_teacher(place, given is None and takes_ema(settings.model))


def check_before(run: Run, settings: TrainSettings) -> None:
    """Raise what is wrong with the start of a training before there is a run directory.

    BadConfig for a base that is a LoRA, a device that is not there, and a run that cannot be
    continued; MissingInput for one without a checkpoint.
    """
    check_device(run, settings.compute)
    if run.done or (run.path / CHECKPOINT).exists():
        return
    check_whole(settings.model.get("path"))
    if (source := run.single_input("continue_from")) is not None:
        check_continued(run, source)
        _check_checkpoint(source)


def check_whole(path: object) -> None:
    """Raise BadConfig for a base that is a LoRA."""
    from deme.models.adapter_files import is_adapter

    is_here = isinstance(path, str) and not path.startswith("hub:")
    if is_here and is_adapter(weights_folder(locate(str(path)))):
        raise BadConfig(
            f"{path} is a LoRA, and trainings start from whole models\n"
            f"type: deme merge model=diffusers model.path=<its base> 'inputs.experts=[{path}]' "
            "lora.form=fuse, and then model.path=<that run>"
        )


def _check_checkpoint(source: Path) -> None:
    if not (source / CHECKPOINT).is_file():
        raise MissingInput(
            f"{source} has no checkpoint to continue from\n"
            "train that run with progress.keep_checkpoint=true"
        )


def check_sharding(settings: TrainSettings, are_several: bool, method: "Method") -> None:
    """Raise BadConfig for a training whose parameters cannot be sharded."""
    if not are_several:
        raise BadConfig(
            "compute.strategy=fsdp shards a model over several processes, and this is one\n"
            "type: torchrun --nproc_per_node=<n> -m deme train ..., or compute.strategy=ddp"
        )
    if settings.adapter is not None:
        raise BadConfig(
            "compute.strategy=fsdp cannot be combined with adapter=lora\ntype: compute.strategy=ddp"
        )
    if settings.compute.compile:
        raise BadConfig(
            "compute.strategy=fsdp does not go with compute.compile=true\n"
            "type: compute.compile=false"
        )
    if method.uses_gradients:
        raise BadConfig(
            f"balancing={chosen_option(settings, 'balancing')} needs whole gradients of every "
            "task\ntype: compute.strategy=ddp"
        )


def keeps_checkpoint(path: Path) -> bool:
    """Whether the command that made a run was to keep its checkpoint, whatever was typed since."""
    progress = frozen_config(path).get("progress") or {}
    return bool(progress.get("keep_checkpoint"))


def start_from_finished(run: Run, settings: TrainSettings) -> None:
    """Put the checkpoint, curve and snapshots of inputs.continue_from into a run not yet begun.

    Raises BadConfig for a run of other settings, or of as many steps, MissingInput for one without
    a checkpoint.
    """
    from deme.models.frozen import copy_part

    def copy_folder(one: Path, other: Path) -> None:
        files.write_folder(other, lambda partial: copy_part(one, partial, links=True))

    source, own = run.single_input("continue_from"), run.path / CHECKPOINT
    if source is None or own.exists():
        return
    theirs = check_continued(run, source)
    _check_checkpoint(source)
    if chosen_option(settings, "learning_rate") != "constant":
        logger.warning(
            "the learning rate of %s followed a schedule of %d steps; in one run of %d steps it "
            "would have been another",
            source,
            theirs,
            settings.num_steps,
        )
    if every := settings.snapshots.every:
        for snapshot in find_snapshots(source):
            if snapshot.step % every == 0:  # not that of the last step
                copy_folder(snapshot.folder, snapshot_folder(run.path, snapshot.step))
    for name in ("metrics.jsonl", CHECKPOINT):  # with a checkpoint a run has begun
        with open(source / name, "rb") as stored, files.atomic(run.path / name) as copy:
            shutil.copyfileobj(stored, copy)
    logger.info("continuing %s", source)
