"""Checks of `deme train`: the base, the teacher, and what several processes can do."""

from pathlib import Path
from typing import TYPE_CHECKING

from deme.report.typed_options import chosen_option
from deme.runs import Run, TrainSettings, takes_ema
from deme.system import BadConfig, files, logger

if TYPE_CHECKING:
    from deme.data import ImageData
    from deme.methods import Method
    from deme.models.denoiser import DenoisingModel


def check_passport(
    run: Run, settings: TrainSettings, model: "DenoisingModel", data: "ImageData", device: str
) -> None:
    """Store the passport of the base. Raises BadConfig if the config contradicts the weights."""
    from deme.evaluation.passport import format_passport, load_passport, refuse_contradicted

    passport = load_passport(settings, model, data, device, settings.passport.num_images)
    if run.is_main_process:
        files.write_json(run.path / "passport.json", passport)
    for line in format_passport(passport):
        logger.info(line)
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


def check_sharding(settings: TrainSettings, are_several: bool, method: "Method") -> None:
    """Raise BadConfig for a training whose parameters cannot be sharded."""
    if not are_several:
        raise BadConfig(
            "compute.strategy=fsdp shards a model over several processes, and this is one\n"
            "type: torchrun --nproc_per_node=<n> -m deme train ..., or compute.strategy=ddp"
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
