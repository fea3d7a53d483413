"""Stable Diffusion in one file: the names that diffusers' own conversion maps to a pipeline's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import save_file

RESNET = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection", "op", "conv"]  # fmt: skip
BLOCK = ["norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2",
         *(f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0"))]  # fmt: skip
ATTENTION = ["norm", "proj_in", "proj_out", *(f"transformer_blocks.0.{name}" for name in BLOCK)]
VAE_RESNET = ["norm1", "conv1", "norm2", "conv2", "nin_shortcut"]


def unet_names() -> Iterator[str]:
    yield from ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    for part in (*(f"input_blocks.{i}" for i in range(1, 12)), *(f"output_blocks.{i}" for i in range(12))):  # fmt: skip
        yield from (f"{part}.0.{name}" for name in RESNET)
        yield from (f"{part}.1.{name}" for name in ATTENTION)
        yield from (f"{part}.1.conv", f"{part}.2.conv")
    yield from (f"middle_block.{i}.{name}" for i in (0, 2) for name in RESNET)
    yield from (f"middle_block.1.{name}" for name in ATTENTION)


def vae_names() -> Iterator[str]:
    yield from ("quant_conv", "post_quant_conv")
    for part, way, change in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        yield from (f"{part}.{name}" for name in ("conv_in", "norm_out", "conv_out"))
        for i in range(4):
            yield from (f"{part}.{way}.{i}.block.{j}.{n}" for j in range(3) for n in VAE_RESNET)
            yield f"{part}.{way}.{i}.{change}.conv"
        yield from (f"{part}.mid.block_{i}.{name}" for i in (1, 2) for name in VAE_RESNET)
        yield from (f"{part}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out"))


def original_names(
    parts: Iterator[str], prefix: str, convert: Callable[..., dict[str, torch.Tensor]], config: object
) -> dict[str, str]:  # fmt: skip
    """Return the name in one file of every tensor that the conversion knows."""
    names = [f"{prefix}{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    tagged = {name: torch.full((1, 1), float(i)) for i, name in enumerate(names)}
    return {name: names[int(tag.flatten()[0])] for name, tag in convert(tagged, config).items()}


def write_single_file(folder: Path, file: Path) -> StableDiffusionPipeline:
    """Write a Stable Diffusion pipeline of one attention block a level as one file."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    found = {}
    for module, parts, prefix, convert in (
        (pipeline.unet, unet_names(), "model.diffusion_model.", convert_ldm_unet_checkpoint),
        (pipeline.vae, vae_names(), "first_stage_model.", convert_ldm_vae_checkpoint),
    ):
        names = original_names(parts, prefix, convert, module.config)
        found |= {names[name]: value.contiguous() for name, value in module.state_dict().items()}
    for name, value in pipeline.text_encoder.state_dict().items():
        own = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"cond_stage_model.transformer.{own}"] = value.contiguous()
    save_file(found, file)
    return pipeline
