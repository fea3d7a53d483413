"""Stable Diffusion 1.x and 2.x: the UNet is trained, the VAE and the text encoder are frozen.

Its pipeline is a StableDiffusionPipeline. Weights folders hold the frozen parts, too: every one is
a pipeline that stock diffusers loads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from deme.diffusion import TEXT, Condition
from deme.models.denoiser import DenoisingModel
from deme.models.folder import check_unet, read_scheduler
from deme.models.frozen import PARTS, FrozenEncoders, copy_part
from deme.models.layout import JsonObject, read_json_object, unet_folder
from deme.models.trial import config_errors, try_config
from deme.system import BadConfig, locate, write_json

OTHER_PARTS = ("text_encoder_2", "transformer", "image_encoder", "prior")  # of other families
INDEX: JsonObject = {  # model_index.json of a folder without one, without UNet and scheduler
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}


class TextToImageModel(DenoisingModel):
    """UNet2DConditionModel, schedule and frozen parts; returns the prediction [B, 4, h, w].

    `model(x_t [B, 4, h, w], t [B], {"encoder_hidden_states": [B, L, D]})`
    """

    pipeline = "StableDiffusionPipeline"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler_config: Mapping[str, object],
        encoders: FrozenEncoders,
    ) -> None:
        super().__init__(unet, scheduler_config)
        self.encoders = encoders

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        (_, height, width), factor = self.noise_shape, self.encoders.factor
        return self.encoders.num_channels, height * factor, width * factor

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the embeddings of prompts."""
        return {TEXT: self.encoders.to(self.unet.device).embeddings(texts)}

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in -1..1 of latents."""
        return self.encoders.images(x0)

    def write_configs(self, folder: Path, about: Mapping[str, object], links: bool = False) -> None:
        """Write everything of a pipeline's folder but the UNet's weights."""
        super().write_configs(folder, about)
        source, ours = self.encoders.folder, read_json_object(folder / "model_index.json")
        theirs = read_json_object(source / "model_index.json")
        kept = {n: value for n, value in theirs.items() if n not in ("unet", "scheduler")} or INDEX
        index = {  # a part such as a safety checker may be left out
            name: [None, None] if isinstance(part, list) and not (source / name).is_dir() else part
            for name, part in kept.items()
        }
        if index.get("safety_checker") == [None, None]:
            index["requires_safety_checker"] = False
        scheduler = self.scheduler_config.get("_class_name", "DDPMScheduler")
        index |= {**ours, "scheduler": ["diffusers", scheduler]}
        write_json(folder / "model_index.json", index)
        for part in kept.keys() | PARTS:
            if (source / part).is_dir():
                copy_part(source / part, folder / part, links)


def build_text_to_image(parts: str, seed: int = 0) -> TextToImageModel:
    """Return the frozen parts of a pipeline's folder with a randomly initialised UNet.

    The UNet has the config of the folder's: the start of pretraining.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return from_configs(parts, locate(parts))


def from_configs(path: str, folder: Path) -> TextToImageModel:
    """Return the model of a whole pipeline's folder, without the weights of its UNet.

    Raises MissingInput, BadConfig (another family of models), WorkFailed.
    """
    unet = read_json_object(unet_folder(folder) / "config.json")
    _check_family(path, read_json_object(folder / "model_index.json"), unet)
    check_unet(path, unet, default_channels=4)
    scheduler = read_scheduler(path, folder)
    encoders = FrozenEncoders(folder, path)
    wanted = unet.get("cross_attention_dim")
    if wanted != encoders.width:
        raise BadConfig(
            f"{path} has a UNet that reads embeddings of length {wanted} and a text encoder that "
            f"gives {encoders.width}: its parts are of different models"
        )
    with config_errors(path):
        try_config(path, folder, "UNet2DConditionModel", unet)
        return TextToImageModel(UNet2DConditionModel.from_config(unet), scheduler, encoders)


def _check_family(path: str, index: JsonObject, unet: JsonObject) -> None:
    """Raise BadConfig unless a pipeline has one text encoder and the UNet takes nothing else."""
    others = [name for name in OTHER_PARTS if index.get(name) not in (None, [None, None])]
    if others or unet.get("addition_embed_type") is not None:
        parts = f" with {', '.join(others)}" if others else ""
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')}{parts}; "
            "text to image takes Stable Diffusion 1.x and 2.x: one CLIP text encoder"
        )
