"""Load whatever model a folder holds."""

from deme.models import text_to_image, unconditional
from deme.models.denoiser import DenoisingModel
from deme.models.layout import read_json_object, unet_folder
from deme.system import locate


def load_pretrained(path: str) -> DenoisingModel:
    """Load a diffusers folder: pixel diffusion of a UNet2DModel, or Stable Diffusion 1.x or 2.x.

    Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged, NaN, other shapes).
    """
    unet = read_json_object(unet_folder(locate(path)) / "config.json")
    if unet.get("_class_name") == "UNet2DConditionModel":
        return text_to_image.load(path)
    return unconditional.load(path)
