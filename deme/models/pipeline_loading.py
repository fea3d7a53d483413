"""Make the model of a pipeline's folder whose frozen parts are used through diffusers' pipeline."""

from pathlib import Path
from typing import TypeVar

import diffusers

from deme.models.latent import LatentModel
from deme.models.layout import network_folder, read_json_object
from deme.models.network_inputs import InputsOf
from deme.models.noise import read_scheduler
from deme.models.pipeline_encoders import Encode, PipelineEncoders
from deme.models.trial import config_errors, try_config
from deme.system import BadConfig

T = TypeVar("T", bound=LatentModel)


def load_latent(
    kind: type[T],
    path: str,
    folder: Path,
    network: str,
    inputs_of: InputsOf,
    encode: Encode,
) -> T:
    """Return the model of a pipeline's folder without the weights of its network.

    `network`: its class in diffusers; `inputs_of`: its inputs by its config; `encode`: what makes
    its condition of texts. Raises MissingInput, BadConfig, WorkFailed.
    """
    stated = read_json_object(network_folder(folder) / "config.json")
    scheduler = read_scheduler(path, folder)
    encoders = PipelineEncoders(folder, path, kind.pipeline, kind.part, encode)

    with config_errors(path):
        try_config(path, folder, network, stated, inputs_of)
        made = getattr(diffusers, network).from_config(stated)
    sizes = made.config
    given, returned = sizes["in_channels"], sizes.get("out_channels")
    if returned not in (None, given, 2 * given):
        raise BadConfig(
            f"{path} has a {network} of {given} channels in and {returned} out (in_channels, "
            "out_channels); they must be equal, or twice as many out with a learned variance"
        )
    return kind(made, scheduler, encoders)
