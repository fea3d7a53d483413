"""Load whatever model a folder holds."""

from deme.models import text_to_image, unconditional
from deme.models.denoiser import DenoisingModel
from deme.models.foreign import check_model_folder
from deme.models.layout import COPY_OF_EMA, check_ema, read_json_object, unet_folder
from deme.system import locate


def load_pretrained(path: str, ema: bool = False) -> DenoisingModel:
    """Load the model of a `model` option; see `load_folder`. `ema`: take unet_ema/."""
    return load_folder(path, ema, "model.ema=true")


def load_folder(path: str, ema: bool = False, advice: str = COPY_OF_EMA) -> DenoisingModel:
    """Load a diffusers folder: pixel diffusion of a UNet2DModel, or Stable Diffusion 1.x or 2.x.

    Its noise schedule and prediction type are the checkpoint's own
    (docs/method.md#forward-process); weights of any precision become float32. `ema`: take the
    weights of unet_ema/, which some programs write next to unet/; `advice`: how, if they are not
    taken. Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged, NaN, other
    shapes).
    """
    folder = locate(path)
    check_model_folder(path, folder)
    check_ema(path, folder, ema, advice)
    unet = read_json_object(unet_folder(folder) / "config.json")
    conditional = unet.get("_class_name") == "UNet2DConditionModel"
    model = (text_to_image if conditional else unconditional).from_configs(path, folder)
    model.load_weights(folder, ema)
    return model.eval()
