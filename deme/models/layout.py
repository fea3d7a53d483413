"""Locations of the parts of a model folder, and its small files. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeGuard

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from deme.system import (
    COPY_AGAIN,
    FILE_NAME_RULE,
    BadConfig,
    is_file_name,
    logger,
    read_json,
)
from deme.system.diffusers_configs import NetworkConfig, SchedulerConfig, Text

JsonObject = dict[str, object]  # a config that diffusers wrote: config.json, model_index.json, ...

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTIONS = "unet/projections.safetensors"
PLACEMENT = "unet/projections.json"
NETWORKS = ("unet", "transformer")  # folders of a pipeline that hold the trained network
EMA = "unet_ema"  # averaged weights that some programs write next to unet/
MAX_NAME_BYTES = 255  # of a file, on all file systems
COPY_OF_EMA = f"give a copy of the folder in which {EMA}/ is called unet/"
SCHEDULER = "scheduler_config.json"
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
BETAS = ("trained_betas", "rescale_betas_zero_snr")  # of a scheduler that few models have


def is_flow(scheduler: Mapping[str, object]) -> bool:
    """Whether a scheduler's config is of flow matching."""
    kind = str(scheduler.get("_class_name"))
    return kind.startswith("FlowMatch") or bool(scheduler.get("use_flow_sigmas"))


def is_part(value: object) -> TypeGuard[list[str | None]]:
    """Whether an entry of model_index.json is a part: [<library>, <class>]."""
    return isinstance(value, list)


def _is_name(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 300)


def _an_entry(value: object) -> object:
    if is_part(value) and not (len(value) == 2 and all(map(_is_name, value))):
        raise ValueError("[<library>, <class>] for a part")
    return value


def _a_name(key: str) -> str:
    if not is_file_name(key):  # parts are folders, which are copied
        raise ValueError(f"an object whose keys are each {FILE_NAME_RULE}")
    return key


ModelIndex = dict[
    Annotated[str, AfterValidator(_a_name)], Annotated[object, AfterValidator(_an_entry)]
]


class Placement(TypedDict, total=False):
    """projections.json."""

    placement: Text


def _of_a_file(name: str) -> str:
    if not 0 < len(Path(name).name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        raise ValueError("the name of a file")
    return name


ShardName = Annotated[str, AfterValidator(_of_a_file)]


class ShardIndex(TypedDict):
    """The index of weights that are stored in several files: tensor -> file."""

    weight_map: Annotated[dict[str, ShardName], Field(min_length=1)]


KINDS = {
    "model_index.json": ModelIndex,
    "config.json": NetworkConfig,
    SCHEDULER: SchedulerConfig,
    Path(PLACEMENT).name: Placement,
}


def network_folder(folder: Path, ema: bool = False) -> Path:
    """Return where the network's config and weights are: unet/, transformer/ or the folder itself.

    With `ema` it is where a UNet's averaged weights are.
    """
    inside = [folder / name for name in NETWORKS if (folder / name).is_dir()]
    return folder / EMA if ema else inside[0] if inside else folder


def check_ema(path: str, folder: Path, ema: bool, advice: str = COPY_OF_EMA) -> None:
    """Say that a model folder has averaged weights, too, if they are not taken (`ema`), and how.

    Without `advice` it was said before. Raises BadConfig if they are asked for and there are none.
    """
    has_ema = (folder / EMA).is_dir()
    if ema and not has_ema:
        raise BadConfig(f"{path} has no {EMA}/\ntype: model.ema=false")
    if has_ema and not ema and advice:
        logger.info("%s has averaged weights in %s/, too; to take them: %s", path, EMA, advice)


def read_json_object(file: Path) -> JsonObject:
    """Return what a JSON file of a model folder holds, {} if there is no such file.

    Raises WorkFailed for values that no such file has.
    """
    return dict(read_json(file, KINDS[file.name], COPY_AGAIN)) if file.is_file() else {}


def scheduler_file(folder: Path) -> Path:
    """Return where the config of a model folder's scheduler is, if it has one."""
    place = folder / "scheduler" / SCHEDULER
    return place if place.is_file() else folder / SCHEDULER


def read_placement(place: Path) -> str | None:
    """Return the placement of the projections in a network's folder, None if it has none.

    Folders without a placement file have the paper's, `blocks`.
    """
    if not (place / Path(PROJECTIONS).name).is_file():
        return None
    placed = read_json_object(place / Path(PLACEMENT).name)
    return str(placed.get("placement", "blocks"))
