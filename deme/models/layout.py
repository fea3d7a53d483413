"""Where a model folder has its parts, and what its small files say. No torch here."""

from pathlib import Path
from typing import Any

from deme.system.files import read_json

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTIONS = "unet/projections.safetensors"
PLACEMENT = "unet/projections.json"
SCHEDULER = "scheduler_config.json"
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")


def unet_folder(folder: Path) -> Path:
    """Return where the UNet's config and weights are: unet/, or the folder itself."""
    return folder / "unet" if (folder / "unet").is_dir() else folder


def scheduler_file(folder: Path) -> Path | None:
    """Return the config of a model folder's scheduler, None if it has none."""
    places = (folder / "scheduler" / SCHEDULER, folder / SCHEDULER)
    return next((place for place in places if place.is_file()), None)


def read_placement(unet_folder: Path) -> str | None:
    """Return how the projections of a UNet folder are placed, None if it has none; before there was a choice, the paper's way."""
    if not (unet_folder / Path(PROJECTIONS).name).is_file():
        return None
    file = unet_folder / Path(PLACEMENT).name
    return str(read_json(file)["placement"]) if file.is_file() else "blocks"


def read_noise(folder: Path) -> dict[str, Any]:
    """Return what a model folder's scheduler says, in so many words, of the noise and of what the network predicts of it."""
    file = scheduler_file(folder)
    told = read_json(file) if file is not None else {}
    return {
        key: told[key] for key in (*NOISE, "trained_betas", "rescale_betas_zero_snr") if key in told
    }
