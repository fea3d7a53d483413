"""The training memory that the recipes in docs/recipes state, by the arithmetic of `deme plan`.

For the networks of published pipelines, without their weights: a LoRA of rank 16 at batch 1, with
the consistency loss, bf16-mixed, gradient checkpointing, and the base in bfloat16; the latents
are those of the size that the pipeline was trained for.

`python benchmarks/recipe_memory.py` writes results/recipe_memory.json.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from record import record

from deme.commands import training_memory
from deme.runs import TrainSettings, build, compose_stage

WORDS = [
    "data=captioned_images", "data.path=.", "method=deme", "expert=0", "adapter=lora",
    "batch_size=1", "adapter.base_dtype=bfloat16", "compute=gpu",
    "compute.gradient_checkpointing=true", "model=diffusers",
]  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # recipe -> class, config where not the default
    "stable-diffusion": ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
    "sdxl": (
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)),
        },
    ),
    "pixart-sigma": (
        "PixArtTransformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 28,
            "caption_channels": 4096,
            "interpolation_scale": 2,
            "use_additional_conditions": False,
        },
    ),
    "sana": ("SanaTransformer2DModel", {}),
    "flux": ("FluxTransformer2DModel", {"guidance_embeds": True}),
}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe, (kind, given) in NETWORKS.items():
            with torch.device("meta"):
                network = getattr(diffusers, kind)(**given)
            part = "unet" if "UNet" in kind else "transformer"
            place = Path(folder, recipe, part)
            place.mkdir(parents=True)
            config = {**network.config, "_class_name": kind}
            (place / "config.json").write_text(json.dumps(config, default=list))
            words = [*WORDS, f"model.path={place.parent}"]
            settings = build(TrainSettings, compose_stage("train", words))
            described = training_memory.memory_of(settings)
            count = sum(each.numel() for each in network.parameters())
            found[recipe] = {"network": kind, "parameters": count, "memory": described}
            print(recipe, found[recipe], flush=True)
    record("recipe_memory", {"settings": WORDS[4:9], "torch": torch.__version__, "recipes": found})


if __name__ == "__main__":
    main()
