"""Stable Diffusion XL: a UNet of latents, conditioned on two text encoders and image sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.diffusion import TEXT, Condition
from deme.models.latent import LatentModel
from deme.models.network_inputs import NetworkInputs, image_and_time, numbers
from deme.models.pipeline_loading import load_latent

NETWORKS = ("UNet2DConditionModel with addition_embed_type=text_time",)
POOLED = "text_embeds"
NUM_TOKENS = 77
NUM_SIZES = 6  # height and width of the original, of its crop's corner, of the target


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    sizes = NUM_SIZES * stated["addition_time_embed_dim"]
    pooled = stated["projection_class_embeddings_input_dim"] - sizes
    return NetworkInputs(
        {
            **image_and_time(stated, "sample"),
            TEXT: numbers(num_tokens or NUM_TOKENS, stated["cross_attention_dim"]),
            f"added_cond_kwargs.{POOLED}": numbers(pooled),
            "added_cond_kwargs.time_ids": numbers(NUM_SIZES),
        }
    )


class SDXLModel(LatentModel):
    """`model(x_t, t, {"encoder_hidden_states": [B, L, D], "text_embeds": [B, P]})`.

    The sizes that it is conditioned on are those of images that are neither resized nor cropped.
    """

    pipeline = "StableDiffusionXLPipeline"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return all that the network returns."""
        factor, (height, width) = self.encoders.factor, x_t.shape[-2:]
        size = [height * factor, width * factor]
        sizes = x_t.new_tensor([*size, 0, 0, *size]).expand(len(x_t), NUM_SIZES)
        more = {POOLED: condition[POOLED], "time_ids": sizes}
        return self.call_network(x_t, time, {TEXT: condition[TEXT]}, added_cond_kwargs=more)


MODEL = SDXLModel


def encode(pipeline: Any, texts: Sequence[str]) -> Condition:
    """Return the embeddings of texts; where the pipeline says so, those of empty texts are 0."""
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        list(texts), do_classifier_free_guidance=False
    )
    if pipeline.config.force_zeros_for_empty_prompt:
        is_given = torch.tensor([bool(text) for text in texts], device=pooled.device)
        embeddings = embeddings * is_given[:, None, None]
        pooled = pooled * is_given[:, None]
    return {TEXT: embeddings, POOLED: pooled}


def from_configs(path: str, folder: Path) -> SDXLModel:
    """Return the model of a pipeline's folder without the network's weights."""
    return load_latent(SDXLModel, path, folder, "UNet2DConditionModel", network_inputs, encode)
