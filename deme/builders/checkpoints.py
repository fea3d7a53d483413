"""Models on disk for merging: diffusers folders with a UNet or a transformer, and runs of deme."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import diffusers
import torch

from deme.merging.plan import PROJECTIONS, Checkpoint, MergePlan, plan_merge
from deme.merging.stream import Fold
from deme.models.adapter_files import WEIGHTS, is_adapter
from deme.models.adapter_tensors import AdaptedTensors, AdapterFile, adapter_mismatches
from deme.models.checkpoint import NAME, open_weights
from deme.models.foreign import check_model_folder
from deme.models.foreign_adapter import lora_file, read_foreign
from deme.models.frozen import copy_part
from deme.models.layout import (
    COPY_OF_EMA,
    EMA,
    NETWORKS,
    PLACEMENT,
    SCHEDULER,
    check_ema,
    is_part,
    read_json_object,
    read_placement,
    scheduler_file,
)
from deme.models.noise import noise_of, with_defaults
from deme.models.projection import Projections, folded
from deme.runs import base_hash, takes_ema, weights_folder
from deme.system import (
    About,
    BadConfig,
    MissingInput,
    first_lines,
    is_weights,
    locate,
    logger,
    make_parents,
    model_folders,
    read_about,
    same_content,
)
from deme.system.tensors import TensorFile, Tensors


def base_folder(model_option: Mapping[str, object]) -> Path:
    """Return the folder of the pretrained base. Raises BadConfig for an option without a path."""
    if "path" not in model_option:
        raise BadConfig(
            "the base of a merge is a model on disk\ntype: model=diffusers model.path=<folder>"
        )
    return weights_folder(locate(str(model_option["path"])))


def existing_network_folder(folder: Path) -> Path:
    """Return the folder of a model's network: unet/, transformer/ or `folder`.

    Raises MissingInput.
    """
    for place in (*(folder / name for name in NETWORKS), folder):
        if (place / "config.json").is_file():
            return place
    inside = [place.name for place in model_folders(folder)]
    raise MissingInput(
        f"{folder} is not a diffusers model: it needs a config.json in "
        f"{', '.join(f'{name}/' for name in NETWORKS)} or at its top"
        + (f"\nit is an unfinished run, or type: {folder}/weights/{inside[0]}" if inside else "")
    )


def open_checkpoint(
    folder: Path,
    ema: bool = False,
    advice: str = COPY_OF_EMA,
    base: Checkpoint | None = None,
) -> Checkpoint:
    """Read the configs, with their classes' defaults, and the headers of a model's weights.

    `ema`: of those in unet_ema/; `advice`: how to take them, if they are not taken. A LoRA adapter
    is its base with the adapter's changes; `base` replaces the one that its deme.json names.

    Raises MissingInput, BadConfig (no model folder, or layers that the base does not have),
    WorkFailed (damaged).
    """
    if is_adapter(folder):
        return _adapted(folder, base)
    if base is not None and (file := lora_file(folder)) is not None and _is_lora(file):
        return _foreign(folder, file, base)
    check_model_folder(str(folder), folder)
    check_ema(str(folder), folder, ema, advice)
    place = existing_network_folder(folder)
    config, about = read_json_object(place / "config.json"), read_about(folder)
    name = place.name
    if place == folder:  # a bare network: the name that one of its class has in a pipeline
        name = "transformer" if "Transformer" in str(config.get("_class_name")) else "unet"
    parts: dict[Path, Tensors] = {
        Path(name, f"{NAME}.safetensors"): open_weights(folder / EMA if ema else place)
    }
    if (place / PROJECTIONS).is_file():
        parts[Path(name, PROJECTIONS)] = TensorFile(place / PROJECTIONS)
    scheduler = read_json_object(scheduler_file(folder))
    if not scheduler and place == folder:  # unet/ of a pipeline
        scheduler = read_json_object(scheduler_file(folder.parent))
    config = with_defaults(config, "UNet2DModel")
    noise = noise_of(scheduler) if scheduler else {}
    return Checkpoint(folder, parts, config, about, read_placement(place), noise, ema)


def _adapted(folder: Path, base: Checkpoint | None) -> Checkpoint:
    """Return a base with the changes of the adapter in a folder."""
    about = read_about(folder)
    if base is None:
        named = about.get("base_model")
        if named is None:
            raise BadConfig(
                f"{folder} is a LoRA whose deme.json does not name its base\n"
                "type: model=diffusers model.path=<base>"
            )
        base = open_checkpoint(weights_folder(locate(named)), bool(about.get("base_ema")), "")
    part = next(iter(base.parts)).parts[0]
    return _with_lora(folder, base, AdapterFile(TensorFile(folder / WEIGHTS), part), about)


def _with_lora(folder: Path, base: Checkpoint, adapter: AdapterFile, about: About) -> Checkpoint:
    """Return a base with the changes of a LoRA. Raises BadConfig for layers that do not fit."""
    ((place, weights),) = base.parts.items()
    if problems := adapter_mismatches(weights.specs, adapter):
        raise BadConfig(f"{folder} does not fit {base.folder}:\n{first_lines(problems)}")
    parts: dict[Path, Tensors] = {place: AdaptedTensors(weights, adapter)}
    return replace(
        base, folder=folder, parts=parts, about=about, ema=False, base_folder=base.configs
    )


def _is_lora(file: Path) -> bool:
    """Whether the tensors in a file are those of an adapter."""
    marks = ("lora", "hada_", "lokr_", "oft_")
    return any(mark in name.lower() for name in TensorFile(file).specs for mark in marks)


def _foreign(folder: Path, file: Path, base: Checkpoint) -> Checkpoint:
    """Return a base with the changes of another program's LoRA."""
    part = next(iter(base.parts)).parts[0]
    pipeline = str(read_json_object(base.configs / "model_index.json").get("_class_name"))
    found = read_foreign(file, pipeline, part, dict(base.config))
    return _with_lora(folder, base, AdapterFile(found, part), {})


def open_plan(
    model_option: Mapping[str, object], experts: Sequence[Path], of_checkpoints: bool = False
) -> MergePlan:
    """Return the plan of merging `experts` (runs or folders) into the base of a `model` option.

    `of_checkpoints`: any models of one architecture are allowed. Raises BadConfig with all
    mismatches that the file headers show.
    """
    base, ema = base_folder(model_option), takes_ema(model_option)
    opened = open_checkpoint(base, ema, "model.ema=true")
    models = [open_checkpoint(weights_folder(path), base=opened) for path in experts]
    plan = plan_merge(
        opened,
        models,
        base_hash(model_option, base),
        of_checkpoints,
    )
    for line in not_merged(plan):
        logger.warning(line)
    return plan


def _source(plan: MergePlan) -> tuple[Path, list[str]]:
    """Return the first whole pipeline, base first, and its parts other than the network."""
    for model in (plan.base, *plan.experts):
        file = model.configs / "model_index.json"
        if file.is_file():
            parts = [part for part, value in read_json_object(file).items() if is_part(value)]
            return model.configs, [part for part in parts if part != _name(plan)]
    return plan.experts[0].configs, []


def _name(plan: MergePlan) -> str:
    """Return the name of the network's folder in a pipeline."""
    return next(iter(plan.experts[0].parts)).parts[0]


def not_merged(plan: MergePlan) -> Iterator[str]:
    """Yield a line for what a merge does not compare, and for every other part that it drops."""
    for model in (plan.base, *plan.experts):
        if not model.noise:
            yield (
                f"{model.folder} has no {SCHEDULER}: its noise schedule and prediction type "
                "cannot be compared with those of the others"
            )
    source, parts = _source(plan)
    for model, part in product((plan.base, *plan.experts), parts):
        kept = {file.name: file for file in (source / part).glob("*") if is_weights(file)}
        files = [file for file in (model.configs / part).glob("*") if file.name in kept]
        if not all(same_content(file, kept[file.name]) for file in files):
            yield f"{model.folder} has another {part} than {source}; the merge keeps the latter"


def copy_other_parts(plan: MergePlan, folder: Path, with_projections: bool) -> None:
    """Copy all of the first whole pipeline but the network's weights; base first."""
    source, parts = _source(plan)
    name, place = _name(plan), existing_network_folder(source)
    make_parents(folder / name / "config.json")
    shutil.copyfile(place / "config.json", folder / name / "config.json")
    if with_projections and plan.experts[0].placement is not None:
        placement = existing_network_folder(plan.experts[0].folder) / Path(PLACEMENT).name
        if placement.is_file():
            shutil.copyfile(placement, folder / name / placement.name)
    for file in (source / "model_index.json", source / "scheduler_config.json"):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    for part in parts or ["scheduler"]:
        if (source / part).is_dir():
            copy_part(source / part, folder / part, links=True)


def fold_of(plan: MergePlan) -> Fold | None:
    """Return how projections are multiplied into their layers, None unless they are foldable.

    Raises BadConfig for a network that diffusers does not have.
    """
    if not plan.folds:
        return None
    config = dict(plan.experts[0].config)
    name = str(config.get("_class_name", "UNet2DModel"))
    if not hasattr(diffusers, name):
        raise BadConfig(f"diffusers {diffusers.__version__} has no {name}")
    with torch.device("meta"):
        network = getattr(diffusers, name).from_config(config)
    return Fold(Projections(network, "foldable").folds_into(network), folded)
