"""Models on disk for merging: any diffusers folder whose network is a UNet or a transformer, and our own runs."""

import shutil
from pathlib import Path
from typing import Any

import torch

from deme.errors import BadConfig, MissingInput
from deme.files import read_json
from deme.inputs import content_hash, weights_folder
from deme.merging.plan import PROJECTIONS, Checkpoint, MergePlan, plan_merge
from deme.merging.stream import Fold
from deme.models.checkpoint import NAME, open_weights
from deme.models.denoiser import read_placement
from deme.models.projection import Projections, folded
from deme.runs import Run
from deme.stages.common import base_folder
from deme.tensors import TensorFile

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
    placement = read_placement(place) if projections.is_file() else None
    return Checkpoint(folder, parts, read_json(place / "config.json"), about, placement)


def _network_of(place: Path) -> str:
    """A bare network's folder: its name in a pipeline follows from its class."""
    return "transformer" if "Transformer" in str(read_json(place / "config.json").get("_class_name")) else "unet"


def plan_of(run: Run, of_checkpoints: bool = False) -> MergePlan:
    """Return the plan of a run's base and experts. Raises BadConfig for everything that headers show to be wrong."""
    base = base_folder(run.config)
    models = [open_checkpoint(weights_folder(path)) for path in run.inputs["experts"]]
    return plan_merge(open_checkpoint(base), models, content_hash(base), of_checkpoints)


def copy_the_rest(plan: MergePlan, folder: Path, with_projections: bool) -> None:
    """Copy everything of a pipeline but the network's weights: from the base, or from the first expert if the base is bare."""
    whole = [model.folder for model in (plan.base, *plan.experts) if (model.folder / "model_index.json").is_file()]
    source = whole[0] if whole else plan.experts[0].folder
    name = next(iter(plan.experts[0].parts)).parts[0]
    place = network_folder(source)
    (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(place / "config.json", folder / name / "config.json")
    if with_projections and plan.experts[0].placement is not None:
        told = network_folder(plan.experts[0].folder) / Path(PROJECTIONS).with_suffix(".json").name
        if told.is_file():
            shutil.copyfile(told, folder / name / told.name)
    index = read_json(source / "model_index.json") if whole else {}
    parts = [part for part, value in index.items() if isinstance(value, list) and part != name]
    for file in (source / "model_index.json", source / "scheduler_config.json"):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    for part in parts or ["scheduler"]:
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)


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
