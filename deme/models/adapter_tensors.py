"""The weights of a base with a LoRA adapter, tensor by tensor, without making the model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from deme.system.tensors import Spec, Tensors

Factors = tuple[Tensor, Tensor]  # A [r, in, ...] and B [out, r, ...], so that B A is the change


def delta_weight(factors: Factors) -> Tensor:
    """Return B A in the shape of the layer's weight [out, in, ...]."""
    down, up = factors
    flat = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return flat.reshape(len(up), *down.shape[1:])


class AdapterFile:
    """The factors in a file of an adapter, by layer. `path` is what an error names."""

    def __init__(self, file: Tensors, part: str) -> None:
        self.path, self._file, self._part = file.path, file, part
        names = [name.removeprefix(f"{part}.") for name in file.specs]
        others = [name.split(".")[0] for name in file.specs if not name.startswith(f"{part}.")]
        # the network that it is of, such as unet, if that is not `part`
        self.other_part = others[0] if others else None
        self.layers = list(dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in names))

    def shapes(self, layer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of A and B of a layer."""
        down, up = (self._file.specs[self._name(layer, factor)][0] for factor in "AB")
        return down, up

    def rank(self, layer: str) -> int:
        """Return the rank of a layer's change."""
        return self.shapes(layer)[0][0]

    def factors(self, layer: str, dtype: torch.dtype = torch.float32) -> Factors:
        """Return A and B of a layer."""
        down, up = (self._file.read(self._name(layer, factor)).to(dtype) for factor in "AB")
        return down, up

    def _name(self, layer: str, factor: str) -> str:
        return f"{self._part}.{layer}.lora_{factor}.weight"


class AdaptedTensors:
    """The weights of a base plus an adapter's changes: what the adapter is when it is fused.

    Changed layers are in float32, the others as in the base. One changed layer is in memory.
    """

    def __init__(self, base: Tensors, adapter: AdapterFile) -> None:
        self.path, self.base, self.adapter = adapter.path, base, adapter
        changed = {f"{layer}.weight": layer for layer in adapter.layers}
        self._layers = {name: layer for name, layer in changed.items() if name in base.specs}
        self.specs: dict[str, Spec] = {
            name: (shape, torch.float32 if name in self._layers else dtype)
            for name, (shape, dtype) in base.specs.items()
        }
        self._last: tuple[str, Tensor] | None = None

    def read(self, name: str) -> Tensor:
        """Return one tensor. Raises WorkFailed for NaN or infinite values."""
        if (layer := self._layers.get(name)) is None:
            return self.base.read(name)
        if self._last is None or self._last[0] != name:
            added = self.base.read(name).float() + delta_weight(self.adapter.factors(layer))
            self._last = name, added
        return self._last[1]

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of the flattened tensor."""
        if name not in self._layers:
            return self.base.piece(name, start, stop)
        return self.read(name).reshape(-1)[start:stop]


def adapter_mismatches(base: Mapping[str, Spec], adapter: AdapterFile) -> list[str]:
    """Return a line for every layer of an adapter that a base does not have in its shape."""
    if other := adapter.other_part:
        return [f"{adapter.path} is a LoRA of a {other}, and the base has no {other}"]
    found = []
    for layer in adapter.layers:
        down, up = adapter.shapes(layer)
        expected = base.get(f"{layer}.weight")
        shape = (up[0], *down[1:])
        if expected is None:
            found.append(f"{adapter.path} changes {layer}, which the base does not have")
        elif expected[0] != shape:
            found.append(
                f"{adapter.path} changes {layer} with shape {list(shape)}; in the base it has "
                f"{list(expected[0])}"
            )
    return found
