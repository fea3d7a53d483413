"""Flux.1: a flow-matching transformer of packed latents, distilled with guidance.

Latents are packed 2 x 2 for the network, whose inputs are also s itself as the timestep, the
position of every patch and, if it was distilled with guidance, the guidance scale.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from deme.diffusion import TEXT, Condition
from deme.models.latent import Encoders, LatentModel
from deme.models.network_inputs import NetworkInputs, numbers
from deme.models.pipeline_loading import load_latent

NETWORKS = ("FluxTransformer2DModel",)
POOLED = "pooled_projections"
NUM_TOKENS = 512
PACK = 2  # latent pixels per side of a patch
SIZE = 128  # latent pixels per side, which the config does not say: 1,024 pixels
DYNAMIC = {  # of a scheduler with dynamic shifting, with diffusers' defaults
    "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096
}  # fmt: skip
GUIDANCE = 3.5  # input of a guidance-distilled network in training, as in diffusers' script


def network_inputs(stated: Mapping[str, Any], num_tokens: int | None = None) -> NetworkInputs:
    """Return the network's inputs by its config."""
    patches, tokens = (SIZE // PACK) ** 2, num_tokens or NUM_TOKENS
    rows = {
        "hidden_states": numbers(patches, stated["in_channels"]),
        "timestep": numbers(),
        TEXT: numbers(tokens, stated["joint_attention_dim"]),
        POOLED: numbers(stated["pooled_projection_dim"]),
    }
    if stated["guidance_embeds"]:
        rows["guidance"] = numbers()
    return NetworkInputs(
        rows, lambda: {"img_ids": torch.zeros(patches, 3), "txt_ids": torch.zeros(tokens, 3)}
    )


class FluxModel(LatentModel):
    """`model(x_t, t, {"encoder_hidden_states": [B, L, D], "pooled_projections": [B, P]})`."""

    pipeline = "FluxPipeline"
    part = "transformer"
    adapter_targets = (  # those of diffusers' training script
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip

    def __init__(
        self, network: ModelMixin, scheduler_config: Mapping[str, object], encoders: Encoders
    ) -> None:
        super().__init__(network, scheduler_config, encoders)
        self.distilled_guidance = GUIDANCE if network.config["guidance_embeds"] else None

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        channels = self.network.config["in_channels"] // PACK**2
        height, width = self.sample_size or (SIZE, SIZE)
        return channels, height, width

    @property
    def size_multiple(self) -> int:
        """What height and width of the latents must be multiples of."""
        return PACK

    @property
    def pipeline_sampling(self) -> Mapping[str, object]:
        """How stock sampling shifts its steps: by the number of patches, down to s = 1 / steps."""
        _, height, width = self.noise_shape
        stated = self.scheduler_config
        if not stated.get("use_dynamic_shifting"):
            return {}
        low, high, first, last = (float(str(stated.get(k, d))) for k, d in DYNAMIC.items())
        mu = low + (high - low) * (height * width // PACK**2 - first) / (last - first)
        return {"shift": math.exp(mu), "spacing": "trailing"}

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return the prediction [B, C, H, W]."""
        count, channels, height, width = x_t.shape
        rows, columns = height // PACK, width // PACK
        positions = torch.zeros(rows, columns, 3, device=x_t.device, dtype=x_t.dtype)
        positions[..., 1] = torch.arange(rows, device=x_t.device)[:, None]
        positions[..., 2] = torch.arange(columns, device=x_t.device)[None, :]
        more: dict[str, object] = {
            "img_ids": positions.reshape(-1, 3),
            "txt_ids": x_t.new_zeros(condition[TEXT].shape[1], 3),
        }
        if self.distilled_guidance is not None:
            more["guidance"] = x_t.new_full((count,), self.distilled_guidance)
        packed = x_t.reshape(count, channels, rows, PACK, columns, PACK)
        packed = packed.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, -1)
        found = self.call_network(packed, time / self.schedule.num_timesteps, condition, **more)
        found = found.reshape(count, rows, columns, channels, PACK, PACK)
        return found.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


MODEL = FluxModel


def encode(pipeline: Any, texts: Sequence[str]) -> Condition:
    """Return the embeddings of texts, as the pipeline makes them."""
    embeddings, pooled, _ = pipeline.encode_prompt(list(texts), None)
    return {TEXT: embeddings, POOLED: pooled}


def from_configs(path: str, folder: Path) -> FluxModel:
    """Return the model of a pipeline's folder without the network's weights."""
    return load_latent(FluxModel, path, folder, NETWORKS[0], network_inputs, encode)
