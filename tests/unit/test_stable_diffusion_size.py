"""Stable Diffusion 1.4's UNet at its real size, without its weights: what docs/method.md#projections says of its parameters."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from deme.models.families.stable_diffusion import TextToImageModel
from deme.models.projection import Projections

UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
PUBLISHED = 859_520_964  # trainable parameters of CompVis/stable-diffusion-v1-4's UNet
PROJECTED = 9_216_000
CHANNELS = [320, 640, 1280, 1280, 1280, 1280, 1280, 640, 320]  # down blocks, mid, up blocks


@pytest.fixture
def model():
    """The whole model on torch's meta device: shapes and no numbers; of its VAE only what the shape of an image needs."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET)
    return TextToImageModel(unet, SCHEDULER, SimpleNamespace(num_channels=3, factor=8))


def count(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_the_unet_has_the_published_number_of_parameters_and_all_are_trained(model):
    assert count(model) == count(model.unet) == PUBLISHED
    assert model.noise_shape == (4, 64, 64)
    assert model.image_shape == (3, 512, 512)


def test_the_papers_projections_are_one_percent_of_the_parameters(model):
    model.add_projections("blocks")
    channels = [len(weight) for weight in model.projections.parameters()]
    assert channels == CHANNELS
    assert list(model.projections)[:4] + list(model.projections)[-1:] == [
        "down_0",
        "down_1",
        "down_2",
        "down_3",
        "up_3",
    ]
    assert count(model.projections) == sum(c * c for c in CHANNELS) == PROJECTED
    assert count(model) == PUBLISHED + PROJECTED
    assert f"{PROJECTED / count(model):.4%}" == "1.0609%"  # the paper's 1.06%, table 3


def test_foldable_projections_are_one_per_layer_that_ends_a_branch(model):
    projections = Projections(model.unet, "foldable")
    attentions, resnets, samplers = 2 * 3 + 1 + 3 * 3, 4 + 1 + 4, 3 + 3
    assert len(projections) == attentions + resnets + samplers
    state = {name: tuple(value.shape) for name, value in model.unet.state_dict().items()}
    folded = projections.folds_into(model.unet)
    assert all(
        state[tensor][0] == len(projections.get_parameter(name)) for tensor, name in folded.items()
    )


@pytest.mark.parametrize("placement", ["blocks", "foldable"])
def test_a_latent_a_timestep_and_a_text_go_through_it(model, placement):
    model.add_projections(placement)
    text = {"encoder_hidden_states": torch.zeros(2, 77, 768, device="meta")}
    answer = model(
        torch.zeros(2, 4, 64, 64, device="meta"),
        torch.zeros(2, dtype=torch.long, device="meta"),
        text,
    )
    assert answer.shape == (2, 4, 64, 64)
