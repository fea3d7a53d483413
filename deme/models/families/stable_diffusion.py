"""Stable Diffusion 1.x and 2.x: the UNet is trained, the VAE and the text encoder are frozen.

Its pipeline is a StableDiffusionPipeline. Weights folders hold the frozen parts, too: every one is
a pipeline that stock diffusers loads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel

from deme.diffusion import TEXT
from deme.models.frozen import FrozenEncoders
from deme.models.latent import LatentModel
from deme.models.layout import JsonObject, network_folder, read_json_object
from deme.models.network_inputs import InputsOf, NetworkInputs, image_and_time, numbers
from deme.models.noise import read_scheduler
from deme.models.trial import config_errors, try_config
from deme.models.unet_config import check_unet
from deme.system import BadConfig, locate

NETWORKS = ("UNet2DConditionModel",)
NUM_TOKENS = 77  # of CLIP's text encoder
OTHER_PARTS = ("text_encoder_2", "transformer", "image_encoder", "prior")  # of other families
INDEX: JsonObject = {  # model_index.json of a folder without one, without UNet and scheduler
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    text = numbers(num_tokens or NUM_TOKENS, stated["cross_attention_dim"])
    return NetworkInputs({**image_and_time(stated, "sample"), TEXT: text})


class TextToImageModel(LatentModel):
    """UNet2DConditionModel, schedule and frozen parts; returns the prediction [B, 4, h, w].

    `model(x_t [B, 4, h, w], t [B], {"encoder_hidden_states": [B, L, D]})`
    """

    pipeline = "StableDiffusionPipeline"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")
    index = INDEX


MODEL = TextToImageModel
M = TypeVar("M", bound=TextToImageModel)


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
    return from_pipeline(path, folder, TextToImageModel, network_inputs)


def from_pipeline(path: str, folder: Path, kind: type[M], inputs: InputsOf) -> M:
    """Return the model of `from_configs` as another class, whose network has other inputs."""
    unet = read_json_object(network_folder(folder) / "config.json")
    _check_family(path, read_json_object(folder / "model_index.json"))
    if not kind.takes_masks:  # those have more channels in than out
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
        try_config(path, folder, "UNet2DConditionModel", unet, inputs)
        return kind(UNet2DConditionModel.from_config(unet), scheduler, encoders)


def _check_family(path: str, index: JsonObject) -> None:
    """Raise BadConfig unless a pipeline has one text encoder."""
    others = [name for name in OTHER_PARTS if index.get(name) not in (None, [None, None])]
    if others:
        parts = f" with {', '.join(others)}" if others else ""
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')}{parts}; "
            "a UNet2DConditionModel without addition_embed_type is trained as one of Stable "
            "Diffusion 1.x or 2.x, which have one CLIP text encoder"
        )
