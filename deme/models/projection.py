"""Channel-wise projections in the paper's placement (section 3.2): one after every down, mid and up block of a UNet."""

from typing import Any

import torch
from torch import Tensor, nn


class ChannelProjection(nn.Module):
    """P(F) = W F at every position: a bias-free 1x1 convolution [C, C] that starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(channels)[:, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.conv2d(features, self.weight)

    def after_block(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        """Forward hook: project the main path; skip tensors (the rest of a tuple) stay as they are."""
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


def add_projections(unet: Any) -> nn.ModuleDict:
    """Hook an identity projection onto every block of a diffusers UNet and return them by block name.

    The names are down_0.. down_{D-1}, mid, up_0 .. up_{D-1}; the channels follow from `block_out_channels`.
    """
    channels = list(unet.config["block_out_channels"])
    blocks = {f"down_{i}": (block, channels[i]) for i, block in enumerate(unet.down_blocks)}
    if unet.mid_block is not None:
        blocks["mid"] = (unet.mid_block, channels[-1])
    blocks |= {f"up_{i}": (block, channels[-1 - i]) for i, block in enumerate(unet.up_blocks)}
    projections = nn.ModuleDict({name: ChannelProjection(width) for name, (_, width) in blocks.items()})
    projections.to(unet.device, unet.dtype)
    for name, (block, _) in blocks.items():
        block.register_forward_hook(projections[name].after_block)
    return projections
