"""An unconditional diffusion model of pixels: diffusers' UNet2DModel, in a DDPMPipeline."""

import json
from collections.abc import Mapping

import torch
from diffusers import DDPMScheduler, UNet2DModel

from deme.models.denoiser import DenoisingModel
from deme.models.folder import read_configs
from deme.system import BadConfig, locate


class UnconditionalModel(DenoisingModel):
    """UNet2DModel and schedule; `model(x_t [B, C, H, W], t [B])` returns [B, C, H, W]."""


def load(path: str) -> UnconditionalModel:
    """Load a diffusers pipeline folder, or a UNet folder with a scheduler_config.json in it.

    The noise schedule is the checkpoint's own (METHOD 1.1); weights of any precision become
    float32. Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged, NaN, other
    shapes).
    """
    folder = locate(path)
    unet, scheduler = read_configs(path, folder)
    try:
        model = UnconditionalModel(UNet2DModel.from_config(unet), scheduler)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BadConfig(f"{path} has configs of which diffusers makes no model: {error}") from error
    model.load_weights(folder)
    return model.eval()


def build_unconditional(
    unet: Mapping[str, object], scheduler: Mapping[str, object], seed: int = 0
) -> UnconditionalModel:
    """Return a randomly initialised model.

    `unet` and `scheduler` are arguments of diffusers' UNet2DModel and DDPMScheduler.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(
            **{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in unet.items()}
        )
    return UnconditionalModel(network, json.loads(DDPMScheduler(**scheduler).to_json_string()))
