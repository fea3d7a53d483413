"""Several LoRAs in one network: base + sum_i w_i B_i A_i, whose weights w can be changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deme.models.adapter import LoRA, add_lora_layers, factors
from deme.models.adapter_tensors import AdapterFile


@dataclass(frozen=True)
class _Layer:
    """A layer: its B [out, R, ...], the unscaled B_i concatenated, and i of each of R columns."""

    name: str
    up: nn.Parameter
    columns: Tensor
    experts: Tensor
    block: int


class AdapterSum:
    """N LoRAs of one base in one network, as one LoRA whose rank is the sum of their ranks.

    Other weights cost one pass over the factors, and no layer's whole change is ever made. Memory:
    the base and twice the LoRAs. `block_of` names the block of a weight (<layer>.weight): every
    block has its own merge weights. The network is changed in place. Raises MissingInput without
    peft.
    """

    def __init__(
        self,
        network: nn.Module,
        adapters: Sequence[AdapterFile],
        block_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.num_experts = len(adapters)
        changed = {layer for adapter in adapters for layer in adapter.layers}
        layers = [name for name, _ in network.named_modules() if name in changed]
        self.names = {f"{layer}.weight" for layer in layers}
        self.blocks = list(dict.fromkeys(block_of(f"{layer}.weight") for layer in layers))
        found = {layer: _side_by_side(layer, adapters) for layer in layers}
        rank = max(len(experts) for _, _, experts in found.values())
        add_lora_layers(network, LoRA(rank), layers)
        self.parameters = {n: p for n, p in factors(network).items() if ".lora_B." in n}
        self._layers: list[_Layer] = []
        own = factors(network)
        for layer, (down, up, experts) in found.items():
            parameter = own[f"{layer}.lora_B.weight"]
            block = self.blocks.index(block_of(f"{layer}.weight"))
            with torch.no_grad():  # what is above the rank of a layer is 0
                own[f"{layer}.lora_A.weight"].zero_()[: len(down)] = down.to(parameter.device)
            self._layers.append(
                _Layer(
                    f"{layer}.lora_B.weight",
                    parameter,
                    up.to(parameter.device),
                    experts.to(parameter.device),
                    block,
                )
            )

    @torch.no_grad()
    def merge(self, weights: Sequence[float]) -> None:
        """Set the network to the merge with weights [blocks x N], block by block."""
        rows = torch.tensor(list(weights), dtype=torch.float64)
        rows = rows.reshape(len(self.blocks), self.num_experts)
        for layer in self._layers:
            row = rows[layer.block].float().to(layer.columns.device)[layer.experts]
            scale = row.reshape(1, -1, *[1] * (layer.columns.dim() - 2))
            layer.up[:, : len(row)] = layer.columns * scale

    def gradient(self, gradients: Mapping[str, Tensor | None]) -> list[float]:
        """Return dL/dw [blocks x N] of the gradients of the factors B, by name."""
        found = torch.zeros(len(self.blocks), self.num_experts, dtype=torch.float64)
        for layer in self._layers:
            gradient = gradients.get(layer.name)
            if gradient is None:
                continue
            products = gradient[:, : len(layer.experts)].double() * layer.columns.double()
            by_column = products.transpose(0, 1).flatten(1).sum(1)
            found[layer.block].index_add_(0, layer.experts.cpu(), by_column.cpu())
        return found.flatten().tolist()


def _side_by_side(layer: str, adapters: Sequence[AdapterFile]) -> tuple[Tensor, Tensor, Tensor]:
    """Return stacked A [R, ...], concatenated B [out, R, ...], and the LoRA of each of R rows."""
    having = [(i, adapter) for i, adapter in enumerate(adapters) if layer in adapter.layers]
    pairs = [(i, *adapter.factors(layer)) for i, adapter in having]
    experts = torch.tensor([i for i, down, _ in pairs for _ in range(len(down))])
    return torch.cat([a for _, a, _ in pairs]), torch.cat([b for _, _, b in pairs], 1), experts
