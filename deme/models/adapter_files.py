"""LoRA adapters on disk, in the format of diffusers, with the config that peft takes.

Stored is B multiplied by alpha / rank, and alpha = rank: every reader then adds B A, whether or not
it knows of alpha.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from deme.models.adapter import FACTOR, LoRA, factors
from deme.system import COPY_AGAIN, WorkFailed, read_json, tensors, write_json

WEIGHTS = "pytorch_lora_weights.safetensors"  # diffusers' name
CONFIG = "adapter_config.json"  # peft's name


class AdapterConfig(TypedDict, total=False):
    """adapter_config.json: the keys that are used here, of peft's LoraConfig."""

    r: Annotated[int, Field(ge=1, le=1 << 16)]
    lora_alpha: Annotated[float, Field(gt=0, le=1e9)]
    target_modules: list[str]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter that this package wrote."""
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def read_lora(folder: Path) -> LoRA:
    """Return what the adapter in a folder is. Raises WorkFailed for a damaged config."""
    stored = read_json(folder / CONFIG, AdapterConfig, COPY_AGAIN)
    if "r" not in stored or "target_modules" not in stored:
        raise WorkFailed(f"{folder / CONFIG} has no r or no target_modules\n{COPY_AGAIN}")
    return LoRA(stored["r"], stored.get("lora_alpha"), stored["target_modules"])


def write_adapter(folder: Path, part: str, state: Mapping[str, Tensor], adapter: LoRA) -> None:
    """Write the adapter of the pipeline's `part`, whose factors are in `state`, into a folder."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := FACTOR.fullmatch(name):
            factor = value * adapter.scale if match[2] == "B" else value
            stored[f"{match[1]}.lora_{match[2]}.weight"] = factor
    write_factors(folder, part, {n.removeprefix(f"{part}."): v for n, v in stored.items()})


def write_factors(folder: Path, part: str, found: Mapping[str, Tensor]) -> None:
    """Write factors <layer>.lora_A.weight [r, ...] and ...lora_B.weight [..., r] into a folder.

    All layers have the same rank.
    """
    layers = sorted({name.rsplit(".lora_", 1)[0] for name in found})
    (rank,) = {len(value) for name, value in found.items() if ".lora_A." in name}
    tensors.save(folder / WEIGHTS, {f"{part}.{name}": value for name, value in found.items()})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "target_modules": layers,
    }
    write_json(folder / CONFIG, config)


def read_factors(network: nn.Module, part: str, folder: Path) -> None:
    """Copy the factors in a folder into a network's adapter. Raises WorkFailed unless they fit."""
    file = tensors.TensorFile(folder / WEIGHTS)
    own = factors(network)
    expected = {f"{part}.{name}": tuple(value.shape) for name, value in own.items()}
    found = {name: shape for name, (shape, _) in file.specs.items()}
    if expected != found:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise WorkFailed(
            f"{file.path} does not fit the model's adapter: {len(wrong)} tensors differ, first "
            f"{wrong[0]} (expected {expected.get(wrong[0], 'none')}, "
            f"found {found.get(wrong[0], 'none')})"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(file.read(f"{part}.{name}"))
