"""Class-conditional transformers of pixels: diffusers' DiTTransformer2DModel (Peebles, Xie 2023).

A class is given by its number as a text, "0", "1", ..., and the empty text means no class. With the
noise schedule of flow matching the network is a SiT (Ma et al. 2024).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding

from deme.models.class_labels import LABEL, LABELS, ClassConditionalModel
from deme.models.layout import network_folder, read_json_object
from deme.models.network_inputs import NetworkInputs, image_and_time
from deme.models.noise import read_scheduler, scheduler_config_of
from deme.models.trial import config_errors, try_config
from deme.system import BadConfig, first_line

NETWORKS = ("DiTTransformer2DModel",)


def network_inputs(
    stated: Mapping[str, Any],
    num_tokens: int | None = None,  # noqa: ARG001
) -> NetworkInputs:
    """Return the network's inputs by its config."""
    return NetworkInputs({**image_and_time(stated, "hidden_states"), LABELS: LABEL})


class DiTModel(ClassConditionalModel):
    """Transformer and noise schedule; returns the prediction [B, C, H, W].

    `model(x_t [B, C, H, W], t [B], {"class_labels": [B]})`
    """

    pipeline = "DiTPipeline"
    part = "transformer"
    is_resizable = False  # its positions are those of one size
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")

    def __init__(
        self, network: DiTTransformer2DModel, scheduler_config: Mapping[str, object]
    ) -> None:
        super().__init__(network, scheduler_config)
        for module in network.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0  # each block would draw its own; a data set drops classes

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        count: int = self.network.config["num_embeds_ada_norm"]
        return count

    @property
    def null_class(self) -> int | None:
        """The label after the last class."""
        return self.num_classes


MODEL = DiTModel


def from_configs(path: str, folder: Path) -> DiTModel:
    """Return the model of a folder without its weights.

    Raises MissingInput, BadConfig (a VAE, or configs that make no model).
    """
    index = read_json_object(folder / "model_index.json")
    if index.get("vae") not in (None, [None, None]):
        raise BadConfig(
            f"{path} is a {index.get('_class_name', 'pipeline')} with a VAE; "
            "class-conditional transformers are trained on pixels here"
        )
    config = read_json_object(network_folder(folder) / "config.json")
    scheduler = read_scheduler(path, folder)
    with config_errors(path):
        try_config(path, folder, NETWORKS[0], config, network_inputs)
        return DiTModel(DiTTransformer2DModel.from_config(config), scheduler)


def build_dit(
    transformer: Mapping[str, object], scheduler: Mapping[str, object], seed: int = 0
) -> DiTModel:
    """Return a randomly initialised model.

    `transformer` are arguments of diffusers' DiTTransformer2DModel, `scheduler` those of its
    DDPMScheduler, or of the class that `_class_name` names. As in DiT, blocks start as the identity
    and the output as 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = DiTTransformer2DModel(**transformer)
            noise = scheduler_config_of(scheduler)
        except Exception as error:  # whatever diffusers makes of these values
            raise BadConfig(
                f"model.transformer and model.scheduler make no model: {first_line(error)}"
            ) from error
    with torch.no_grad():
        for block in network.transformer_blocks:
            block.norm1.linear.weight.zero_()
            block.norm1.linear.bias.zero_()
        for layer in (network.proj_out_1, network.proj_out_2):
            layer.weight.zero_()
            layer.bias.zero_()
    return DiTModel(network, noise)
