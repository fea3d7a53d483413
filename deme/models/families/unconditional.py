"""Pixel-space diffusion with diffusers' UNet2DModel, unconditional or class-conditional."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from deme.models.class_labels import LABEL, LABELS, ClassConditionalModel
from deme.models.denoiser import DenoisingModel
from deme.models.layout import JsonObject, network_folder, read_json_object
from deme.models.network_inputs import NetworkInputs, image_and_time
from deme.models.noise import read_scheduler, scheduler_config_of
from deme.models.trial import config_errors, try_config
from deme.models.unet_config import check_unet
from deme.system import BadConfig, first_line

NETWORKS = ("UNet2DModel",)


def network_inputs(
    stated: Mapping[str, Any],
    num_tokens: int | None = None,  # noqa: ARG001
) -> NetworkInputs:
    """Return the network's inputs by its config."""
    rows = image_and_time(stated, "sample")
    is_conditional = stated.get("num_class_embeds") is not None
    return NetworkInputs({**rows, LABELS: LABEL} if is_conditional else rows)


class ClassConditionalUNet(ClassConditionalModel):
    """A UNet2DModel with num_class_embeds classes."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        count: int = self.network.config["num_class_embeds"]
        return count


MODEL = DenoisingModel  # or ClassConditionalUNet, by its config


def from_configs(path: str, folder: Path) -> DenoisingModel:
    """Return the model of a pipeline's folder, or of a UNet's with a scheduler_config.json in it.

    It is without the folder's weights. Raises MissingInput, BadConfig (another kind of model).
    """
    _check_pipeline(path, read_json_object(folder / "model_index.json"))
    unet = read_json_object(network_folder(folder) / "config.json")
    embedding = unet.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise BadConfig(
            f"{path} has time_embedding_type={embedding!r}, as score models of other diffusions "
            "do; only time_embedding_type=positional, with timesteps 0 .. T-1, can be trained here"
        )
    check_unet(path, unet, default_channels=3)
    scheduler = read_scheduler(path, folder)
    with config_errors(path):
        try_config(path, folder, "UNet2DModel", unet, network_inputs)
        return _model(UNet2DModel.from_config(unet), scheduler)


def _model(network: UNet2DModel, scheduler: JsonObject) -> DenoisingModel:
    is_conditional = network.config["num_class_embeds"] is not None
    return (ClassConditionalUNet if is_conditional else DenoisingModel)(network, scheduler)


def _check_pipeline(path: str, index: JsonObject) -> None:
    others = [
        f"{name} ({part[1]})"
        for name, part in index.items()
        if isinstance(part, list) and part[-1] and name not in ("unet", "scheduler")
    ]
    if others:
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')} with {', '.join(others)}\n"
            "allowed for a UNet2DModel: pixel diffusion with this network and a scheduler, such "
            "as a DDPMPipeline"
        )


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

    `unet` are arguments of diffusers' UNet2DModel, `scheduler` those of its DDPMScheduler, or of
    the class that `_class_name` names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = UNet2DModel(
                **{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in unet.items()}
            )
            noise = scheduler_config_of(scheduler)
        except Exception as error:  # whatever diffusers makes of these values
            raise BadConfig(
                f"model.unet and model.scheduler make no model: {first_line(error)}"
            ) from error
    return _model(network, noise)
