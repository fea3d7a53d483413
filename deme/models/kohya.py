"""LoRAs of UNets with the names of kohya's training scripts, which ComfyUI and others read."""

from pathlib import Path

from diffusers.utils import convert_state_dict_to_kohya

from deme.models.adapter_files import CONFIG, WEIGHTS
from deme.models.denoiser import DenoisingModel
from deme.system import BadConfig, tensors


def check_kohya(model: DenoisingModel, place: Path) -> None:
    """Raise BadConfig for a model that is no LoRA of a UNet."""
    if model.adapter is None:
        raise BadConfig(
            f"{place} is no LoRA, and format=kohya is a format of LoRAs\ntype: format=diffusers"
        )
    if model.part != "unet":
        raise BadConfig(
            f"{place} is a LoRA of a {model.part}; ComfyUI reads its diffusers names, so no "
            "conversion is needed\ntype: format=diffusers"
        )


def rename_as_kohya(folder: Path) -> None:
    """Rename the factors of the LoRA in a folder, and add alphas, by diffusers' conversion."""
    state = tensors.TensorFile(folder / WEIGHTS).read_all()
    dtype = next(iter(state.values())).dtype
    renamed = convert_state_dict_to_kohya(state)  # with whole numbers as alphas
    tensors.save(folder / WEIGHTS, {name: value.to(dtype) for name, value in renamed.items()})
    (folder / CONFIG).unlink()  # of peft, which does not read these names
