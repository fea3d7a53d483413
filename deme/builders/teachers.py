"""The teachers of a training run: the base, another model, or the routed experts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from deme.builders.checkpoints import open_checkpoint
from deme.diffusion import TimestepRange
from deme.merging.plan import Checkpoint, differences, order_experts
from deme.models.adapter import BaseOfAdapter
from deme.models.adapter_files import is_adapter, read_lora
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder
from deme.models.noise import noise_of
from deme.runs import TrainSettings, accepted_arguments, instantiate
from deme.system import BadConfig, first_lines, logger, read_about, shown

# keys of a UNet's config that decide what it takes and what it returns
INPUTS = ("sample_size", "in_channels", "cross_attention_dim")


def routed_experts(folders: Sequence[Path]) -> tuple[list[Checkpoint], list[TimestepRange]]:
    """Return experts by range, and their ranges.

    Raises BadConfig unless they cover every timestep once and are of one architecture, noise
    schedule and prediction type.
    """
    experts = [open_checkpoint(expert.folder) for expert in order_experts(folders)]
    first, *others = experts
    if problems := [line for other in others for line in differences(first, other)]:
        raise BadConfig(f"these experts do not fit together:\n{first_lines(problems)}")
    _check_loras([expert.folder for expert in experts])
    return experts, [expert.range for expert in experts if expert.range is not None]


def _check_loras(folders: Sequence[Path]) -> None:
    """Raise BadConfig for LoRA experts that cannot take turns in one network."""
    kinds = [
        (read_lora(folder), read_about(folder).get("base_model")) if is_adapter(folder) else None
        for folder in folders
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise BadConfig(
            "LoRA experts that are routed by range must have the same base, rank and layers\n"
            "type: deme merge 'inputs.experts=[<LoRA>]' lora.form=fuse for each, which makes whole "
            "models of them"
        )


def check_teacher(model: DenoisingModel, teacher: Checkpoint) -> None:
    """Raise BadConfig unless the predictions of teacher and model are comparable.

    Its architecture may be another one.
    """
    noise, unet = noise_of(model.scheduler_config), model.network.config
    pairs = [(key, noise[key], teacher.noise[key]) for key in noise.keys() & teacher.noise.keys()]
    pairs += [(key, unet.get(key), teacher.config.get(key)) for key in INPUTS]
    problems = [
        f"{key}={shown(theirs)} (the model: {shown(ours)})"
        for key, ours, theirs in sorted(pairs, key=lambda pair: pair[0])
        if _plain(ours) != _plain(theirs)
    ]
    if problems:
        raise BadConfig(
            f"{teacher.folder} cannot teach this model, as its predictions differ: it has "
            f"{', '.join(problems)}\ntype: a teacher of the same images and noise schedule"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def load_distilled(
    settings: TrainSettings, model: DenoisingModel, folders: Sequence[Path]
) -> tuple[list[Path], list[TimestepRange]]:
    """Return the folders of the experts that `model` learns from, by range, and their ranges.

    Raises BadConfig for experts that do not fit together, or not the model.
    """
    if "experts" not in accepted_arguments(settings.method):
        raise BadConfig(
            "this method does not use experts, but inputs.experts is given\n"
            "type: method=distill, or leave it out"
        )
    if "affinity" in accepted_arguments(settings.ranges):
        raise BadConfig(
            "ranges=gradient needs a measurement, but the ranges are those of inputs.experts\n"
            "type: ranges=uniform"
        )
    experts, ranges = routed_experts(folders)
    check_teacher(model, experts[0])
    listed = ", ".join(map(str, ranges))
    logger.info("teachers: %d experts, of the ranges %s", len(experts), listed)
    return [expert.folder for expert in experts], ranges


def teacher_loader(
    settings: TrainSettings, model: DenoisingModel, given: Path | None
) -> Callable[[], nn.Module]:
    """Return what loads the teacher of the consistency loss: the folder `given`, or the base.

    A teacher that follows the average of the weights has their projections. Raises BadConfig for
    one that does not fit the model.
    """
    if given is not None:
        teacher = open_checkpoint(given)
        check_teacher(model, teacher)
        return lambda: load_folder(str(teacher.folder), advice="")

    if model.adapter is not None and not settings.teacher_is_average:
        return lambda: BaseOfAdapter(model)

    def base() -> DenoisingModel:
        loaded: DenoisingModel = instantiate(settings.model)
        if settings.teacher_is_average and settings.projection.placement is not None:
            loaded.add_projections(settings.projection.placement)
        return loaded

    return base
