"""What a file or folder is that is no model folder of diffusers, and the command that makes one."""

from collections.abc import Iterable
from pathlib import Path

from deme.system import BadConfig, DemeError
from deme.system.tensors import TensorFile

ADAPTERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
OTHER_FORMATS = {
    ".onnx": "a network in ONNX format", ".gguf": "quantized weights in GGUF format",
    ".zip": "an archive", ".tar": "an archive", ".gz": "an archive",
}  # fmt: skip
FOLDER = "a model is a folder that diffusers' save_pretrained writes"
FUSE = (
    'type: python -c "from diffusers import DiffusionPipeline; '
    "p = DiffusionPipeline.from_pretrained('<base>'); p.load_lora_weights('{path}'); "
    "p.fuse_lora(); p.unload_lora_weights(); p.save_pretrained('<folder>')\""
)
CONVERT = (
    'type: python -c "from diffusers import StableDiffusionPipeline as P; '
    "P.from_single_file('{path}').save_pretrained('<folder>')\""
)


def check_model_folder(path: str, place: Path) -> None:
    """Raise BadConfig for what is no model folder: a single file, a LoRA; `path` names it."""
    if place.is_dir():
        if any((place / name).is_file() for name in ADAPTERS) and not _is_model(place):
            raise BadConfig(
                f"{path} is a LoRA, the difference to a base model; {FOLDER}\n"
                f"{FUSE.format(path=path)}"
            )
        return
    if place.suffix.lower() not in SINGLE_FILES:
        what = OTHER_FORMATS.get(place.suffix.lower(), "a file")
        raise BadConfig(f"{path} is {what}; {FOLDER}")
    what, command = _single_file(place)
    raise BadConfig(f"{path} is {what}; {FOLDER}\n{command.format(path=path)}")


def _is_model(place: Path) -> bool:
    return any((place / name).is_file() for name in ("model_index.json", "unet/config.json"))


def _single_file(place: Path) -> tuple[str, str]:
    """Return what a file of weights is, and the command that makes a model folder of it."""
    names: Iterable[str] = ()
    if place.suffix == ".safetensors":
        try:
            names = TensorFile(place).specs
        except DemeError as error:
            raise BadConfig(str(error)) from error
    if any("lora" in name.lower() for name in names):
        return "a LoRA, the difference to a base model", FUSE
    if any(name.removeprefix("module.") == "temb.dense.0.weight" for name in names):
        return "a checkpoint of the original DDPM layout", "type: deme convert {path} out=<folder>"
    if any(name.startswith("model.diffusion_model.") for name in names):
        return "a checkpoint of Stable Diffusion in a single file", CONVERT
    if names:
        return "a file of weights without the config that they belong to", "type: model=<folder>"
    return (
        "a single file of weights",
        f"{CONVERT}, or for the original DDPM layout: deme convert {{path}} out=<folder>",
    )
