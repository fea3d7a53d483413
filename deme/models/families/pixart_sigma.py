"""PixArt-Sigma: a transformer of latents with a T5 text encoder and a noise schedule with betas.

The network also returns a variance, which is not trained.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from deme.diffusion import TEXT, Condition
from deme.models.latent import LatentModel
from deme.models.network_inputs import NetworkInputs, image_and_time, numbers
from deme.models.pipeline_loading import load_latent

NETWORKS = ("PixArtTransformer2DModel",)
ATTENTION_MASK = "encoder_attention_mask"
NUM_TOKENS = 300
NO_SIZES = {"resolution": None, "aspect_ratio": None}  # conditions of PixArt-Alpha alone


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    text = numbers(num_tokens or NUM_TOKENS, stated["caption_channels"])
    rows = {**image_and_time(stated, "hidden_states"), TEXT: text}
    return NetworkInputs(rows, lambda: {"added_cond_kwargs": NO_SIZES})


class PixArtSigmaModel(LatentModel):
    """`model(x_t, t, {"encoder_hidden_states": [B, L, D], "encoder_attention_mask": [B, L]})`."""

    pipeline = "PixArtSigmaPipeline"
    part = "transformer"
    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return all that the network returns."""
        return self.call_network(x_t, time, condition, added_cond_kwargs=NO_SIZES)


MODEL = PixArtSigmaModel


def encode(pipeline: Any, texts: Sequence[str]) -> Condition:
    """Return the embeddings of texts and which of their tokens there are."""
    embeddings, mask, _, _ = pipeline.encode_prompt(list(texts), do_classifier_free_guidance=False)
    return {TEXT: embeddings, ATTENTION_MASK: mask}


def from_configs(path: str, folder: Path) -> PixArtSigmaModel:
    """Return the model of a pipeline's folder without the network's weights."""
    return load_latent(PixArtSigmaModel, path, folder, NETWORKS[0], network_inputs, encode)
