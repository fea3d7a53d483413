"""Channel-wise projections of a diffusers UNet, in two placements.

`blocks` is the paper's (section 3.2): one after every down, mid and up block. `foldable` multiplies
the output of the last layer of a residual branch, so that it can be multiplied into that layer: no
capacity of its own, and a stock checkpoint in the end.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deme.system import BadConfig

PLACEMENTS = ("blocks", "foldable")


class ChannelProjection(nn.Module):
    """P(F) = W F at every position: a bias-free 1x1 convolution [C, C] that starts as the
    identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(channels)[:, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.conv2d(features, self.weight)

    def after_block(self, block: nn.Module, inputs: Any, output: Any) -> Any:
        """Forward hook: project the main path; skip tensors (the rest of a tuple) stay as they
        are."""
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)

    def after_layer(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook: project what a convolution [B, C, H, W] or a linear layer [..., C]
        gives."""
        return (
            nn.functional.linear(output, self.weight[:, :, 0, 0])
            if isinstance(layer, nn.Linear)
            else self(output)
        )


class Projections(nn.ModuleDict):
    """Identity projections by name, hooked onto a diffusers UNet. Raises BadConfig for a
    `placement` that there is not."""

    def __init__(self, unet: Any, placement: str) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise BadConfig(
                f"projection.placement must be null, {' or '.join(PLACEMENTS)}; got {placement!r}"
            )
        self.placement = placement
        found = _blocks(unet) if placement == "blocks" else _layers(unet)
        self._hooked: dict[str, Any] = {}
        self._hooks = []
        for name, module, channels in found:
            projection = ChannelProjection(channels).to(unet.device, unet.dtype)
            self[name], self._hooked[name] = projection, module
            hook = projection.after_block if placement == "blocks" else projection.after_layer
            self._hooks.append(module.register_forward_hook(hook))

    def folds_into(self, unet: Any) -> dict[str, str]:
        """Return the projection's weight of each tensor of the UNet that it is multiplied into."""
        names = {layer: name for name, layer in unet.named_modules()}
        return {
            f"{names[layer]}.{tensor}": f"{name}.weight"
            for name, layer in self._hooked.items()
            for tensor, _ in layer.named_parameters(recurse=False)
        }

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply every projection into its layer, W <- P W and b <- P b, and take it off the
        UNet.

        Raises BadConfig for the paper's placement: what follows a block starts with a normalisation
        or reads the skip, too.
        """
        if self.placement != "foldable":
            raise BadConfig(
                f"projections of the placement {self.placement} are no part of another layer"
            )
        for name, layer in self._hooked.items():
            projection = self.get_parameter(f"{name}.weight")
            for tensor in layer.parameters(recurse=False):
                tensor.copy_(folded(projection, tensor))
        for hook in self._hooks:
            hook.remove()


def folded(projection: Tensor, tensor: Tensor) -> Tensor:
    """Return P W for a layer's weight [C, ...], P b for its bias [C], of a projection [C, C, 1, 1];
    in float64."""
    matrix = projection.reshape(len(tensor), len(tensor)).double()
    return (matrix @ tensor.double().reshape(len(tensor), -1)).reshape(tensor.shape)


def _named_blocks(unet: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f"down_{i}", block) for i, block in enumerate(unet.down_blocks))
    if unet.mid_block is not None:
        yield "mid", unet.mid_block
    yield from ((f"up_{i}", block) for i, block in enumerate(unet.up_blocks))


def _blocks(unet: Any) -> Iterator[tuple[str, nn.Module, int]]:
    """Name, module and channels of every block: down_0 .. down_{D-1}, mid, up_0 .. up_{D-1}."""
    widths = list(unet.config["block_out_channels"])
    middle = widths[-1:] if unet.mid_block is not None else []
    for (name, block), width in zip(
        _named_blocks(unet), [*widths, *middle, *reversed(widths)], strict=True
    ):
        yield name, block, width


def _layers(unet: Any) -> Iterator[tuple[str, nn.Module, int]]:
    """Name, module and channels of the layers that end a residual branch or a change of resolution.

    In every block: conv2 of the last resnet, the output projection of each attention (to_out[0] of
    an Attention, proj_out of a Transformer2DModel), the convolution of each sampler (its conv2, if
    it is a resnet). Layers that diffusers' FIR samplers do not call, but only take the weights of,
    are left out.
    """
    for block_name, block in _named_blocks(unet):
        ends = [("resnet", getattr(list(block.resnets)[-1], "conv2", None))]
        for i, attention in enumerate(getattr(block, "attentions", None) or []):
            output = getattr(attention, "to_out", None)
            ends.append(
                (f"attention_{i}", output[0] if output else getattr(attention, "proj_out", None))
            )
        for i, sampler in enumerate(_samplers(block)):
            ends.append((f"sampler_{i}", getattr(sampler, "conv", getattr(sampler, "conv2", None))))
        for name, layer in ends:
            if isinstance(layer, nn.Linear):
                yield f"{block_name}_{name}", layer, layer.out_features
            elif isinstance(layer, nn.Conv2d):
                yield f"{block_name}_{name}", layer, layer.out_channels


def _samplers(block: Any) -> list[nn.Module]:
    return [
        *(getattr(block, "downsamplers", None) or []),
        *(getattr(block, "upsamplers", None) or []),
    ]
