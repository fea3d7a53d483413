"""Locations of the parts of a model folder, and its small files. Imports no torch."""

from pathlib import Path
from typing import Annotated, TypeGuard

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from deme.system import COPY_AGAIN, FILE_NAME_RULE, is_file_name, read_json

JsonObject = dict[str, object]  # a config that diffusers wrote: config.json, model_index.json, ...

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTIONS = "unet/projections.safetensors"
PLACEMENT = "unet/projections.json"
EMA = "unet_ema"  # averaged weights that some programs write beside unet/
SCHEDULER = "scheduler_config.json"
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
BETAS = ("trained_betas", "rescale_betas_zero_snr")  # of a scheduler that few models have

Channels = Annotated[int, Field(ge=1, le=1 << 14)]
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Layers = Annotated[int, Field(ge=1, le=64)]
Text = Annotated[str, Field(max_length=300)]
Beta = Annotated[float, Field(allow_inf_nan=False)]


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


class NetworkConfig(TypedDict, total=False):
    """config.json of a network that diffusers or transformers wrote: the keys that are used here.

    What diffusers makes of the others is caught where it is made.
    """

    _class_name: Text | None
    architectures: list[Text] | None
    sample_size: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None
    in_channels: Channels | None
    out_channels: Channels | None
    latent_channels: Channels | None
    layers_per_block: Layers | list[Layers]
    block_out_channels: Annotated[list[Channels], Field(min_length=1, max_length=16)]
    time_embedding_type: Text
    cross_attention_dim: Channels | list[Channels] | None
    scaling_factor: Annotated[float, Field(gt=0)] | None
    max_position_embeddings: Size
    hidden_size: Size
    num_hidden_layers: Layers
    num_layers: Layers | None
    projection_dim: Size | None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)]


class SchedulerConfig(TypedDict, total=False):
    """scheduler_config.json: the keys that are used here."""

    _class_name: Text
    num_train_timesteps: Annotated[int, Field(ge=1, le=1_000_000)]
    beta_start: Beta
    beta_end: Beta
    beta_schedule: Text
    trained_betas: list[Beta] | None
    prediction_type: Text | None
    variance_type: Text | None
    predict_epsilon: bool | None
    use_flow_sigmas: bool | None
    rescale_betas_zero_snr: bool
    clip_sample: bool
    clip_sample_range: Annotated[float, Field(gt=0)]
    thresholding: bool
    dynamic_thresholding_ratio: Annotated[float, Field(ge=0, le=1)]
    sample_max_value: Annotated[float, Field(gt=0)]
    set_alpha_to_one: bool
    steps_offset: int
    timestep_spacing: Text


class Placement(TypedDict, total=False):
    """projections.json."""

    placement: Text


class ShardIndex(TypedDict):
    """The index of weights that are stored in several files: tensor -> file."""

    weight_map: Annotated[dict[str, str], Field(min_length=1)]


KINDS = {
    "model_index.json": ModelIndex,
    "config.json": NetworkConfig,
    SCHEDULER: SchedulerConfig,
    Path(PLACEMENT).name: Placement,
}


def unet_folder(folder: Path, ema: bool = False) -> Path:
    """Return where the UNet's config and weights are: unet/, or the folder itself.

    With `ema` it is where its averaged weights are.
    """
    return folder / EMA if ema else folder / "unet" if (folder / "unet").is_dir() else folder


def read_json_object(file: Path) -> JsonObject:
    """Return what a JSON file of a model folder holds, {} if there is no such file.

    Raises WorkFailed for values that no such file has.
    """
    return dict(read_json(file, KINDS[file.name], COPY_AGAIN)) if file.is_file() else {}


def scheduler_file(folder: Path) -> Path:
    """Return where the config of a model folder's scheduler is, if it has one."""
    place = folder / "scheduler" / SCHEDULER
    return place if place.is_file() else folder / SCHEDULER


def read_placement(unet_folder: Path) -> str | None:
    """Return the placement of a UNet folder's projections, None if it has none.

    Folders without a placement file have the paper's, `blocks`.
    """
    if not (unet_folder / Path(PROJECTIONS).name).is_file():
        return None
    placed = read_json_object(unet_folder / Path(PLACEMENT).name)
    return str(placed.get("placement", "blocks"))
