"""LoRAs of other programs, read by diffusers' converters: diffusers', peft's, kohya's formats."""

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from deme.models.checkpoint import StateDict
from deme.models.foreign import ADAPTERS
from deme.system import BadConfig, WorkFailed, first_line, logger
from deme.system.hugging_face import quietly
from deme.system.tensors import TensorFile

# parts of names of tensors -> what kind of adapter has them
OTHERS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w1": "LoHa", "lokr_w1": "LoKr",
    "oft_": "OFT", "lora_mid": "LoCon with a middle factor", ".diff": "whole changes of weights",
}  # fmt: skip
FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")


def lora_file(place: Path) -> Path | None:
    """Return the file of a LoRA: a .safetensors file itself, or that in a folder; None for none."""
    if place.is_file():
        return place if place.suffix == ".safetensors" else None
    names = [name for name in ADAPTERS if name.endswith(".safetensors")]
    return next((place / name for name in names if (place / name).is_file()), None)


def read_foreign(file: Path, pipeline: str, part: str, network: dict[str, Any]) -> StateDict:
    """Return the factors in a file, B scaled by alpha / rank, named as this package names them.

    `pipeline`: the base's class in diffusers; `part`: its trained network, with the config
    `network`. Raises BadConfig for another kind of adapter, WorkFailed for what cannot be read.
    """
    names = TensorFile(file).specs  # checks the file
    for mark, kind in OTHERS.items():
        if any(mark in name for name in names):
            raise BadConfig(
                f"{file} is an adapter of the kind {kind}; only plain LoRA can be merged\n"
                "merge it into its base with the program that made it, and give that model's folder"
            )
    reader = getattr(getattr(diffusers, pipeline, None), "lora_state_dict", None)
    if reader is None:
        raise BadConfig(
            f"{file} is a LoRA of another program; diffusers reads such files, but has no LoRA "
            f"loader for {pipeline}\ntype: model.path=<the base of this LoRA>, if that is another"
        )
    options: dict[str, Any] = {"unet_config": _Config(network)} if part == "unet" else {}
    if "return_alphas" in inspect.signature(reader).parameters:
        options["return_alphas"] = True
    try:
        with quietly():
            found, *more = reader(str(file), return_lora_metadata=True, **options)
    except Exception as error:  # whatever a converter makes of names that it does not know
        raise WorkFailed(f"{file} cannot be read as a LoRA: {first_line(error)}") from error
    alphas, metadata = ({}, more[0]) if len(more) == 1 else (more[0] or {}, more[1])
    alphas = {**{n: v for n, v in found.items() if n.endswith(".alpha")}, **alphas}
    settings = metadata or {}
    if settings.get(f"{part}.use_rslora"):
        raise BadConfig(
            f"{file} is an rsLoRA; only plain LoRA can be merged\n"
            "merge it into its base with the program that made it, and give that model's folder"
        )
    factors = {n.removeprefix(f"{part}."): v for n, v in found.items() if n.startswith(f"{part}.")}
    if not factors and not any("." in n and n.split(".")[0].startswith("text_enc") for n in found):
        factors = {n.removeprefix("base_model.model."): v for n, v in found.items()}  # peft's
    alphas = {n.removesuffix(".alpha").removeprefix(f"{part}."): v for n, v in alphas.items()}
    if not any(FACTOR.fullmatch(name) for name in factors):
        with quietly():
            factors = convert_unet_state_dict_to_peft(factors)
            alphas = convert_unet_state_dict_to_peft(alphas)
    if left := sum(name.startswith("text_encoder") for name in found):
        logger.warning("%s also changes text encoders: these %d tensors are left out", file, left)
    return StateDict(file, _scaled(file, factors, alphas, settings, part))


class _Config:
    """A config whose values are attributes, as diffusers' converter reads it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _scaled(
    file: Path,
    factors: dict[str, Tensor],
    alphas: dict[str, Any],
    settings: dict[str, Any],
    part: str,
) -> dict[str, Tensor]:
    """Return factors named <part>.<layer>.lora_A.weight, with alpha / rank multiplied into B."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in factors.items():
        if match := FACTOR.fullmatch(name):
            layers.setdefault(match[1], {})[match[2]] = value
    incomplete = sorted(layer for layer, both in layers.items() if both.keys() != {"A", "B"})
    if not layers or incomplete:
        what = (
            f"only one of the factors A and B of layer {incomplete[0]}"
            if incomplete
            else "no factors A and B of any layer"
        )
        raise WorkFailed(
            f"{file} has {what}\n"
            "get the file again, or check that model.path is the base of this LoRA"
        )
    known = {re.sub(r"\.lora_[AB]\.weight$", "", n): float(v) for n, v in alphas.items()}
    patterns = settings.get(f"{part}.alpha_pattern") or {}
    found: dict[str, Tensor] = {}
    for layer, both in layers.items():
        rank = len(both["A"])
        stated = known.get(layer)
        if stated is None:
            stated = patterns.get(layer, settings.get(f"{part}.lora_alpha", rank))
        found[f"{part}.{layer}.lora_A.weight"] = both["A"].float()
        found[f"{part}.{layer}.lora_B.weight"] = both["B"].float() * (float(stated) / rank)
    return found
