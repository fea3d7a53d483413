"""Checks of `deme train` on the models that a training uses: the base and the teacher."""

from pathlib import Path
from typing import TYPE_CHECKING

from deme.runs import Run, TrainSettings, takes_ema
from deme.system import files, logger

if TYPE_CHECKING:
    from deme.data import ImageData
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
