"""Sana: a flow-matching transformer of deeply compressed latents with a Gemma text encoder.

Prompts are encoded as they are, without the pipeline's instruction to rewrite them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from deme.diffusion import TEXT, Condition
from deme.models.latent import LatentModel
from deme.models.network_inputs import NetworkInputs, image_and_time, numbers
from deme.models.pipeline_loading import load_latent

NETWORKS = ("SanaTransformer2DModel",)
ATTENTION_MASK = "encoder_attention_mask"
NUM_TOKENS = 300


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    text = numbers(num_tokens or NUM_TOKENS, stated["caption_channels"])
    rows = {**image_and_time(stated, "hidden_states"), TEXT: text}
    return NetworkInputs(rows)


class SanaModel(LatentModel):
    """`model(x_t, t, {"encoder_hidden_states": [B, L, D], "encoder_attention_mask": [B, L]})`."""

    pipeline = "SanaPipeline"
    part = "transformer"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return all that the network returns."""
        return self.call_network(x_t, time * self.network.config["timestep_scale"], condition)


MODEL = SanaModel


def encode(pipeline: Any, texts: Sequence[str]) -> Condition:
    """Return the embeddings of texts and which of their tokens there are."""
    embeddings, mask, _, _ = pipeline.encode_prompt(
        list(texts), do_classifier_free_guidance=False, complex_human_instruction=None
    )
    return {TEXT: embeddings, ATTENTION_MASK: mask}


def from_configs(path: str, folder: Path) -> SanaModel:
    """Return the model of a pipeline's folder without the network's weights."""
    return load_latent(SanaModel, path, folder, NETWORKS[0], network_inputs, encode)
