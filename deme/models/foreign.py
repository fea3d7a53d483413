"""What a file or folder is that is no model folder of diffusers, and the command that makes one."""

import json
import shlex
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


def _python(code: str) -> str:
    """Return the line that says to run Python code."""
    return f"type: python -c {shlex.quote(code)}"


def _fuse(path: str) -> str:
    return _python(
        'from diffusers import DiffusionPipeline; p = DiffusionPipeline.from_pretrained("<base>"); '
        f"p.load_lora_weights({json.dumps(path)}); p.fuse_lora(); p.unload_lora_weights(); "
        'p.save_pretrained("<folder>")'
    )


def _as_safetensors(path: str) -> str:
    return _python(
        "import torch; from safetensors.torch import save_file; "
        f"s = torch.load({json.dumps(path)}, weights_only=True); s = s.get('state_dict', s); "
        "save_file({n: v.contiguous() for n, v in s.items() if torch.is_tensor(v)}, "
        "'model.safetensors')"
    )


def check_model_folder(path: str, place: Path) -> None:
    """Raise BadConfig for what is no model folder: a single file, a LoRA; `path` names it."""
    if place.is_dir():
        if any((place / name).is_file() for name in ADAPTERS) and not _is_model(place):
            raise BadConfig(
                f"{path} is a LoRA, the difference to a base model; {FOLDER}\n{_fuse(path)}"
            )
        return
    if place.suffix.lower() not in SINGLE_FILES:
        what = OTHER_FORMATS.get(place.suffix.lower(), "a file")
        raise BadConfig(f"{path} is {what}; {FOLDER}")
    what, command = _single_file(path, place)
    raise BadConfig(f"{path} is {what}; {FOLDER}\n{command}")


def _is_model(place: Path) -> bool:
    return any((place / name).is_file() for name in ("model_index.json", "unet/config.json"))


def _single_file(path: str, place: Path) -> tuple[str, str]:
    """Return what a file of weights is, and the command that makes a model folder of it."""
    names: Iterable[str] = ()
    convert = f"deme convert {shlex.quote(path)} out=<folder>"
    if place.suffix == ".safetensors":
        try:
            names = TensorFile(place).specs
        except DemeError as error:
            raise BadConfig(str(error)) from error
    if any("lora" in name.lower() for name in names):
        return "a LoRA, the difference to a base model", _fuse(path)
    if any(name.removeprefix("module.") == "temb.dense.0.weight" for name in names):
        return "a checkpoint of the original DDPM layout", f"type: {convert}"
    if any(name.startswith("model.diffusion_model.") for name in names):
        return "a checkpoint of a pipeline in a single file", f"type: {convert}"
    if names:
        return "a file of weights without the config that they belong to", "type: model=<folder>"
    return (
        "a single file of weights",
        f"{_as_safetensors(path)}, and then deme convert model.safetensors out=<folder>; "
        f"or for the original DDPM layout: {convert}",
    )
