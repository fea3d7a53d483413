"""An unconditional diffusion model of pixels: diffusers' UNet2DModel, in a DDPMPipeline."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel

from deme.models.denoiser import DenoisingModel
from deme.models.folder import read_configs
from deme.models.trial import config_errors, try_config
from deme.system import BadConfig, first_line


def from_configs(path: str, folder: Path) -> DenoisingModel:
    """Return the model of a pipeline's folder, or of a UNet's with a scheduler_config.json in it.

    It is without the folder's weights. Raises MissingInput, BadConfig (another kind of model).
    """
    unet, scheduler = read_configs(path, folder)
    with config_errors(path):
        try_config(path, folder, "UNet2DModel", unet)
        return DenoisingModel(UNet2DModel.from_config(unet), scheduler)


def unet_that_fits(**_: object) -> DenoisingModel:
    """Raise BadConfig: model=auto is replaced by another option once the image size is known."""
    raise BadConfig(
        "model=auto needs the size and the channels of the images, and they are not known here\n"
        "type: data.size=<pixels> data.channels=<1 or 3>"
    )


def build_unconditional(
    unet: Mapping[str, object], scheduler: Mapping[str, object], seed: int = 0
) -> DenoisingModel:
    """Return a randomly initialised model.

    `unet` and `scheduler` are arguments of diffusers' UNet2DModel and DDPMScheduler.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = UNet2DModel(
                **{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in unet.items()}
            )
            noise = json.loads(DDPMScheduler(**scheduler).to_json_string())
        except Exception as error:  # whatever diffusers makes of these values
            raise BadConfig(
                f"model.unet and model.scheduler make no model: {first_line(error)}"
            ) from error
    return DenoisingModel(network, noise)
