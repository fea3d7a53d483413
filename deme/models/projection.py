"""Channel-wise projections of a diffusers UNet, in two placements.

`blocks` is the paper's (section 3.2): one after every down, mid and up block. `foldable` multiplies
the output of the last layer of a residual branch, so that it can be multiplied into that layer: no
capacity of its own, and a stock checkpoint in the end.
"""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from deme.system import BadConfig

PLACEMENTS = ("blocks", "foldable")

UNet: TypeAlias = UNet2DModel | UNet2DConditionModel


class ChannelProjection(nn.Module):
    """P(F) = W F at every position: a bias-free 1x1 convolution [C, C], at first the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(channels)[:, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.conv2d(features, self.weight)

    def after(
        self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        """Forward hook: project what a block, a convolution or a linear layer [..., C] gives.

        A block may give a tuple: its main path is projected; skip tensors, the rest, stay.
        """
        if isinstance(output, tuple):
            return self(output[0]), *output[1:]
        if isinstance(module, nn.Linear):
            return nn.functional.linear(output, self.weight[:, :, 0, 0])
        return self(output)


class Projections(nn.ModuleDict):
    """Identity projections by name, hooked onto a UNet. Raises BadConfig for another placement."""

    def __init__(self, unet: UNet, placement: str) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise BadConfig(
                f"projection.placement must be null, {' or '.join(PLACEMENTS)}; got {placement!r}"
            )
        self.placement = placement
        self._hooked: dict[str, nn.Module] = {}
        self._hooks = []
        for name, module, channels in (_blocks if placement == "blocks" else _layers)(unet):
            projection = ChannelProjection(channels).to(unet.device, unet.dtype)
            self[name], self._hooked[name] = projection, module
            self._hooks.append(module.register_forward_hook(projection.after))

    def folds_into(self, unet: UNet) -> dict[str, str]:
        """Return the projection's weight of each tensor of the UNet that it is multiplied into."""
        names = {layer: name for name, layer in unet.named_modules()}
        return {
            f"{names[layer]}.{tensor}": f"{name}.weight"
            for name, layer in self._hooked.items()
            for tensor, _ in layer.named_parameters(recurse=False)
        }

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply every projection into its layer, W <- P W and b <- P b, and unhook it.

        Raises BadConfig for the paper's placement: what follows a block starts with a normalisation
        or reads the skip, too.
        """
        if self.placement != "foldable":
            raise BadConfig(
                f"projections of the placement {self.placement} are not part of another layer"
            )
        for name, layer in self._hooked.items():
            projection = self.get_parameter(f"{name}.weight")
            for tensor in layer.parameters(recurse=False):
                tensor.copy_(folded(projection, tensor))
        for hook in self._hooks:
            hook.remove()


def folded(projection: Tensor, tensor: Tensor) -> Tensor:
    """Return P W of a layer's weight [C, ...] or P b of its bias [C], in float64.

    `projection` is P, [C, C, 1, 1].
    """
    matrix = projection.reshape(len(tensor), len(tensor)).double()
    return (matrix @ tensor.double().reshape(len(tensor), -1)).reshape(tensor.shape)


def named_blocks(unet: UNet) -> dict[str, nn.Module]:
    """Return the blocks in the order in which they run: down_0 .., mid, up_0 .. ."""
    blocks = {f"down_{i}": block for i, block in enumerate(unet.down_blocks)}
    if unet.mid_block is not None:
        blocks["mid"] = unet.mid_block
    return blocks | {f"up_{i}": block for i, block in enumerate(unet.up_blocks)}


def _blocks(unet: UNet) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield name, module and channels of every block."""
    blocks, widths = named_blocks(unet), list(unet.config["block_out_channels"])
    middle = widths[-1:] if "mid" in blocks else []
    return zip(blocks, blocks.values(), [*widths, *middle, *reversed(widths)], strict=True)


def _layers(unet: UNet) -> Iterator[tuple[str, nn.Module, int]]:
    """Yield name, module and channels of the layers that end a residual branch or resize.

    In every block: conv2 of the last resnet, the output projection of each attention (to_out[0] of
    an Attention, proj_out of a Transformer2DModel), the convolution of each sampler (its conv2, if
    it is a resnet). Layers that diffusers' FIR samplers do not call, but only take the weights of,
    are left out.
    """
    for block_name, block in named_blocks(unet).items():
        ends = {"resnet": getattr(_parts(block, "resnets")[-1], "conv2", None)}
        for i, attention in enumerate(_parts(block, "attentions")):
            output = getattr(attention, "to_out", None)
            ends[f"attention_{i}"] = output[0] if output else getattr(attention, "proj_out", None)
        for i, sampler in enumerate(_parts(block, "downsamplers", "upsamplers")):
            ends[f"sampler_{i}"] = getattr(sampler, "conv", getattr(sampler, "conv2", None))
        for name, layer in ends.items():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                yield f"{block_name}_{name}", layer, len(layer.weight)


def _parts(block: nn.Module, *names: str) -> list[nn.Module]:
    return [part for name in names for part in getattr(block, name, None) or []]
