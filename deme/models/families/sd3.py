"""Stable Diffusion 3 and 3.5: a flow-matching transformer of latents with three text encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deme.diffusion import TEXT, Condition
from deme.models.latent import LatentModel
from deme.models.network_inputs import NetworkInputs, image_and_time, numbers
from deme.models.pipeline_loading import load_latent

NETWORKS = ("SD3Transformer2DModel",)
POOLED = "pooled_projections"
NUM_TOKENS = 77 + 256  # of CLIP and of T5


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    return NetworkInputs(
        {
            **image_and_time(stated, "hidden_states"),
            TEXT: numbers(num_tokens or NUM_TOKENS, stated["joint_attention_dim"]),
            POOLED: numbers(stated["pooled_projection_dim"]),
        }
    )


class SD3Model(LatentModel):
    """`model(x_t, t, {"encoder_hidden_states": [B, L, D], "pooled_projections": [B, P]})`."""

    pipeline = "StableDiffusion3Pipeline"
    part = "transformer"
    adapter_targets = (  # those of diffusers' training script
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip


MODEL = SD3Model


def encode(pipeline: Any, texts: Sequence[str]) -> Condition:
    """Return the embeddings of texts, as the pipeline makes them."""
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        list(texts), None, None, do_classifier_free_guidance=False
    )
    return {TEXT: embeddings, POOLED: pooled}


def from_configs(path: str, folder: Path) -> SD3Model:
    """Return the model of a pipeline's folder without the network's weights."""
    return load_latent(SD3Model, path, folder, NETWORKS[0], network_inputs, encode)
