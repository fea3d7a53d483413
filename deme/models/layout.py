"""Locations of the parts of a model folder, and its small files. Imports no torch."""

from pathlib import Path

from deme.system import read_json

JsonObject = dict[str, object]  # a config that diffusers wrote: config.json, model_index.json, ...

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTIONS = "unet/projections.safetensors"
PLACEMENT = "unet/projections.json"
SCHEDULER = "scheduler_config.json"
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
BETAS = ("trained_betas", "rescale_betas_zero_snr")  # of a scheduler that few models have


def unet_folder(folder: Path) -> Path:
    """Return where the UNet's config and weights are: unet/, or the folder itself."""
    return folder / "unet" if (folder / "unet").is_dir() else folder


def read_json_object(file: Path) -> JsonObject:
    """Return what a JSON file of a model folder holds, {} if there is no such file."""
    return dict(read_json(file)) if file.is_file() else {}


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
