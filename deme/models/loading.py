"""Load whatever model a folder holds."""

from deme.models import text_to_image, unconditional
from deme.models.denoiser import DenoisingModel
from deme.models.foreign import check_model_folder
from deme.models.layout import EMA, read_json_object, unet_folder
from deme.system import BadConfig, locate, logger


def load_pretrained(path: str, ema: bool = False) -> DenoisingModel:
    """Load a diffusers folder: pixel diffusion of a UNet2DModel, or Stable Diffusion 1.x or 2.x.

    Its noise schedule and prediction type are the checkpoint's own
    (docs/method.md#forward-process); weights of any precision become float32. `ema`: take the
    weights of unet_ema/, which some programs write beside unet/. Raises MissingInput, BadConfig
    (another kind of model), WorkFailed (damaged, NaN, other shapes).
    """
    folder = locate(path)
    check_model_folder(path, folder)
    has_ema = (folder / EMA).is_dir()
    if ema and not has_ema:
        raise BadConfig(f"{path} has no {EMA}/\ntype: model.ema=false")
    if has_ema and not ema:
        logger.info("%s has averaged weights in %s/, too; to take them: model.ema=true", path, EMA)
    unet = read_json_object(unet_folder(folder) / "config.json")
    conditional = unet.get("_class_name") == "UNet2DConditionModel"
    model = (text_to_image if conditional else unconditional).from_configs(path, folder)
    model.load_weights(folder, ema)
    return model.eval()
