"""Models on disk for merging: any diffusers folder whose network is a UNet or a transformer, and our own runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deme.builders.models import base_folder
from deme.merging.plan import PROJECTIONS, Checkpoint, MergePlan, plan_merge
from deme.merging.stream import Fold
from deme.models.checkpoint import NAME, open_weights
from deme.models.layout import read_noise, read_placement
from deme.models.projection import Projections, folded
from deme.runs.inputs import content_hash, weights_folder
from deme.runs.run import Run, say
from deme.system.errors import BadConfig, MissingInput
from deme.system.files import is_weights, link_weights, read_json, same_content
from deme.system.tensors import TensorFile

NETWORKS = ("unet", "transformer")  # where a pipeline's folder has the network that is finetuned


def network_folder(folder: Path) -> Path:
    """Return where a model's network is: below its pipeline's folder, or the folder itself. Raises MissingInput."""
    for place in (*(folder / name for name in NETWORKS), folder):
        if (place / "config.json").is_file():
            return place
    inside = [p.name for p in sorted((folder / "weights").glob("[!.]*"))]
    raise MissingInput(
        f"{folder} is not a diffusers model: it needs a config.json in {', '.join(f'{name}/' for name in NETWORKS)} or at its top"
        + (f"\nit is an unfinished run, or type: {folder}/weights/{inside[0]}" if inside else "")
    )


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the configs and the headers of a model's weights. Raises MissingInput, WorkFailed (damaged)."""
    place = network_folder(folder)
    name = next((n for n in NETWORKS if place == folder / n), None) or _network_of(place)
    parts: dict[Path, Any] = {Path(name, f"{NAME}.safetensors"): open_weights(place)}
    projections = place / PROJECTIONS
    if projections.is_file():
        parts[Path(name, PROJECTIONS)] = TensorFile(projections)
    about = read_json(folder / "deme.json") if (folder / "deme.json").is_file() else {}
    config = read_json(place / "config.json")
    return Checkpoint(folder, parts, config, about, read_placement(place), read_noise(folder))


def _network_of(place: Path) -> str:
    """A bare network's folder: its name in a pipeline follows from its class."""
    return (
        "transformer"
        if "Transformer" in str(read_json(place / "config.json").get("_class_name"))
        else "unet"
    )


def plan_of(run: Run, of_checkpoints: bool = False) -> MergePlan:
    """Return the plan of a run's base and experts. Raises BadConfig for everything that headers show to be wrong."""
    base = base_folder(run.config["model"])
    models = [open_checkpoint(weights_folder(path)) for path in run.inputs["experts"]]
    plan = plan_merge(open_checkpoint(base), models, content_hash(base), of_checkpoints)
    for line in not_merged(plan):
        say(f"  {line}")
    return plan


def _source(plan: MergePlan) -> tuple[Path, list[str]]:
    """Return the model whose other parts a merge keeps, the base unless it is bare, and the names of these parts."""
    whole = [
        model.folder
        for model in (plan.base, *plan.experts)
        if (model.folder / "model_index.json").is_file()
    ]
    if not whole:
        return plan.experts[0].folder, []
    index = read_json(whole[0] / "model_index.json")
    return whole[0], [
        part for part, value in index.items() if isinstance(value, list) and part != _name(plan)
    ]


def _name(plan: MergePlan) -> str:
    """What the network's folder is called in a pipeline."""
    return next(iter(plan.experts[0].parts)).parts[0]


def not_merged(plan: MergePlan) -> Iterator[str]:
    """Yield a line for each network of a pipeline that a merge does not look at and that is not the one it keeps."""
    source, parts = _source(plan)
    for model in (plan.base, *plan.experts):
        for part in parts:
            files = [file for file in (model.folder / part).glob("*") if is_weights(file)]
            pairs = [
                (file, other) for file in files if (other := source / part / file.name).is_file()
            ]
            if not all(same_content(*pair) for pair in pairs):
                yield f"{model.folder} has another {part} than {source}, whose {part} the merge keeps"


def copy_the_rest(plan: MergePlan, folder: Path, with_projections: bool) -> None:
    """Copy everything of a pipeline but the network's weights: from the base, or from the first expert if the base is bare."""
    source, parts = _source(plan)
    name, place = _name(plan), network_folder(source)
    (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(place / "config.json", folder / name / "config.json")
    if with_projections and plan.experts[0].placement is not None:
        told = network_folder(plan.experts[0].folder) / Path(PROJECTIONS).with_suffix(".json").name
        if told.is_file():
            shutil.copyfile(told, folder / name / told.name)
    for file in (source / "model_index.json", source / "scheduler_config.json"):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    for part in parts or ["scheduler"]:
        if (source / part).is_dir():
            shutil.copytree(
                source / part, folder / part, copy_function=link_weights, dirs_exist_ok=True
            )


def fold_of(plan: MergePlan) -> Fold | None:
    """Return how the experts' projections are multiplied into their layers, None where that cannot be or there are none."""
    if not plan.folds:
        return None
    with torch.device("meta"):
        network = network_class(plan.experts[0].config).from_config(dict(plan.experts[0].config))
    return Fold(Projections(network, "foldable").folds_into(network), folded)


def network_class(config: Any) -> Any:
    """Return the class of a network by its config. Raises BadConfig for one that this diffusers has not."""
    import diffusers

    name = str(config.get("_class_name", "UNet2DModel"))
    found = getattr(diffusers, name, None)
    if found is None:
        raise BadConfig(f"diffusers {diffusers.__version__} has no {name}")
    return found
