"""Load whatever model a folder holds."""

from pathlib import Path
from typing import Any

from deme.models import text_to_image, unconditional
from deme.models.denoiser import DenoisingModel
from deme.models.layout import unet_folder
from deme.system import locate, read_json


def load_pretrained(path: str) -> DenoisingModel:
    """Load a diffusers folder: pixel diffusion of a UNet2DModel, or Stable Diffusion 1.x or 2.x.

    Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged, NaN, other shapes).
    """
    if _unet_class(locate(path)) == "UNet2DConditionModel":
        return text_to_image.load(path)
    return unconditional.load(path)


def _unet_class(folder: Path) -> Any:
    config = unet_folder(folder) / "config.json"
    return read_json(config).get("_class_name") if config.is_file() else None
