"""Stable Diffusion 1.x and 2.x: diffusers' UNet2DConditionModel is trained, its VAE and text
encoder are frozen.

Its pipeline is a StableDiffusionPipeline. Weights folders hold the frozen parts, too: every one is
a pipeline that stock diffusers loads.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from deme.diffusion.conditioning import TEXT, Condition
from deme.models.denoiser import DenoisingModel
from deme.models.folder import read_scheduler
from deme.models.frozen import PARTS, FrozenEncoders
from deme.models.layout import unet_folder
from deme.system import BadConfig, link_weights, locate, read_json, write_json


class TextToImageModel(DenoisingModel):
    """`model(x_t [B, 4, h, w], t [B], {"encoder_hidden_states": [B, L, D]})` returns the network's
    prediction [B, 4, h, w]."""

    pipeline = "StableDiffusionPipeline"

    def __init__(
        self, unet: Any, scheduler_config: Mapping[str, Any], encoders: FrozenEncoders
    ) -> None:
        super().__init__(unet, scheduler_config)
        self.encoders = encoders

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width = self.noise_shape
        return (
            self.encoders.num_channels,
            height * self.encoders.factor,
            width * self.encoders.factor,
        )

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the embeddings of prompts."""
        return {TEXT: self.encoders.to(self.unet.device).embeddings(texts)}

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in -1..1 of latents."""
        return self.encoders.images(x0)

    def write_configs(self, folder: Path, about: Mapping[str, Any], links: bool = False) -> None:
        """Write everything of a pipeline's folder but the UNet's weights."""
        super().write_configs(folder, about)
        source = self.encoders.folder
        index = (
            read_json(source / "model_index.json")
            if (source / "model_index.json").is_file()
            else {}
        )
        ours = read_json(folder / "model_index.json")
        kept = {name: value for name, value in index.items() if name not in ("unet", "scheduler")}
        if not kept:
            kept = {
                "vae": ["diffusers", "AutoencoderKL"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "safety_checker": [None, None],
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
            }
        scheduler = self.scheduler_config.get("_class_name", "DDPMScheduler")
        for name, value in kept.items():
            if (
                isinstance(value, list) and not (source / name).is_dir()
            ):  # such as a safety checker that was left out
                kept[name] = [None, None]
        if kept.get("safety_checker") == [None, None]:
            kept["requires_safety_checker"] = False
        write_json(
            folder / "model_index.json", {**kept, **ours, "scheduler": ["diffusers", scheduler]}
        )
        named = [
            name
            for name, value in kept.items()
            if isinstance(value, list) and (source / name).is_dir()
        ]
        for part in dict.fromkeys([*PARTS, *named]):
            shutil.copytree(
                source / part,
                folder / part,
                copy_function=link_weights if links else shutil.copyfile,
            )


def load(path: str) -> TextToImageModel:
    """Load the folder of a whole pipeline. The schedule and the prediction type are the
    checkpoint's own.

    Raises MissingInput, BadConfig (another family of models), WorkFailed (damaged, NaN, other
    shapes).
    """
    folder = locate(path)
    model = _assembled(path, folder, read_json(unet_folder(folder) / "config.json"))
    model.load_weights(folder)
    return model.eval()


def build_text_to_image(parts: str, seed: int = 0) -> TextToImageModel:
    """Return the frozen parts of a pipeline's folder with a randomly initialised UNet of its
    config: the start of pretraining."""
    folder = locate(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _assembled(parts, folder, read_json(unet_folder(folder) / "config.json"))


def _assembled(path: str, folder: Path, unet: dict[str, Any]) -> TextToImageModel:
    check_family(path, folder, unet)
    scheduler = read_scheduler(path, folder)
    encoders = FrozenEncoders(folder, path)
    wanted = unet.get("cross_attention_dim")
    if wanted != encoders.width:
        raise BadConfig(
            f"{path} has a UNet that reads embeddings of length {wanted} and a text encoder that gives {encoders.width}: "
            "its parts are of different models"
        )
    try:
        return TextToImageModel(UNet2DConditionModel.from_config(unet), scheduler, encoders)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BadConfig(f"{path} has configs of which diffusers makes no model: {error}") from error


def check_family(path: str, folder: Path, unet: Mapping[str, Any]) -> None:
    """Raise BadConfig unless a folder is Stable Diffusion 1.x or 2.x: one text encoder, nothing
    else that the UNet is told."""
    index = (
        read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    )
    others = [
        name
        for name in ("text_encoder_2", "transformer", "image_encoder", "prior")
        if index.get(name, [None])[-1]
    ]
    if others or unet.get("addition_embed_type") is not None:
        parts = f" with {', '.join(others)}" if others else ""
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')}{parts}; "
            "text to image takes Stable Diffusion 1.x and 2.x: one CLIP text encoder"
        )
    channels = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels[0] != channels[1]:
        raise BadConfig(
            f"{path} has a UNet of {channels[0]} channels in and {channels[1]} out, as models for inpainting and depth have; "
            "they must be equal"
        )
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        raise BadConfig(
            f"{path} has a UNet that wants class labels beside texts, which cannot be trained here"
        )
    if unet.get("sample_size") is None:
        raise BadConfig(
            f"{path} does not say which images it makes\nset sample_size in its unet/config.json, such as 64"
        )
