"""Small random models for tests."""

from types import SimpleNamespace

import torch

from deme.evaluation.passport import load_passport
from deme.models.denoiser import DenoisingModel
from deme.models.families.unconditional import build_unconditional

UNET = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 2, "add_attention": False,
}  # fmt: skip


def tiny(
    seed: int = 0, num_timesteps: int = 1000, prediction_type: str = "epsilon", **unet: object
) -> DenoisingModel:
    scheduler = {"num_train_timesteps": num_timesteps, "prediction_type": prediction_type}
    return build_unconditional({**UNET, **unet}, scheduler, seed).eval()


def moved(model: torch.nn.Module, seed: int, size: float) -> torch.nn.Module:
    """Stand in for finetuning: move every weight, in place."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += size * torch.randn(weight.shape, generator=draw)
    return model


def passport_of(option, model, data, cache):
    """Return the passport of a model of an option, by 16 images; it is kept in `cache`."""
    settings = SimpleNamespace(model=option, data=None, paths=SimpleNamespace(cache=str(cache)))
    return load_passport(settings, model, data, "cpu", 16)
