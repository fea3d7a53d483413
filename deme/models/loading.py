"""Load whatever model a folder holds."""

from deme.models import text_to_image, unconditional
from deme.models.denoiser import DenoisingModel
from deme.models.layout import read_json_object, unet_folder
from deme.system import locate


def load_pretrained(path: str) -> DenoisingModel:
    """Load a diffusers folder: pixel diffusion of a UNet2DModel, or Stable Diffusion 1.x or 2.x.

    Its noise schedule and prediction type are the checkpoint's own
    (docs/method.md#forward-process); weights of any precision become float32. Raises MissingInput,
    BadConfig (another kind of model), WorkFailed (damaged, NaN, other shapes).
    """
    folder = locate(path)
    unet = read_json_object(unet_folder(folder) / "config.json")
    conditional = unet.get("_class_name") == "UNet2DConditionModel"
    model = (text_to_image if conditional else unconditional).from_configs(path, folder)
    model.load_weights(folder)
    return model.eval()
