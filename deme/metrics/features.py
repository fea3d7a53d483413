"""What turns images into features: the interface of an extractor, and its weights file, checked before it is believed."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from deme.system import files, tensors
from deme.system.errors import BadConfig, WorkFailed
from deme.system.paths import locate


class FeatureExtractor(Protocol):
    """Map uint8 images [B, C, H, W] of any size to float32 features [B, dimension] on the CPU.

    `name` says everything that changes a feature: network, layer, resize, range. `suffix` is the short form that ends the
    names of metrics (`kid_<suffix>`), and `frechet_name` is what the Frechet distance on these features is called.
    `weights` is the sha256 of its weights file.
    """

    name: str
    weights: str
    suffix: str
    frechet_name: str
    dimension: int

    def to(self, device: str) -> "FeatureExtractor": ...

    def __call__(self, pixels: Tensor) -> Tensor: ...


def weights_file(path: str, sha256: str | None) -> Path:
    """Return the place of a weights file or folder. Raises MissingInput, or BadConfig if its sha256 is not the given one."""
    place = locate(path)
    if sha256 is not None and (found := files.sha256(place)) != sha256:
        raise BadConfig(
            f"{place} is not the file that was asked for: its sha256 is {found}, expected {sha256}\n"
            "copy it again from where it came, or give the sha256 of the file you mean"
        )
    return place


def read_weights(place: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a .pth file without running any code that it holds."""
    if place.suffix == ".safetensors":
        return tensors.TensorFile(place).read_all()
    try:
        state = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WorkFailed(
            f"{place} is not a file of named tensors: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WorkFailed(f"{place} is not a file of named tensors")
    return state


def read_into(network: nn.Module, place: Path, otherwise: str) -> None:
    """Give a network the weights of a file. Raises BadConfig, saying `otherwise`, for other names or shapes than its own."""
    state = read_weights(place)
    if {n: v.shape for n, v in network.state_dict().items()} != {
        n: v.shape for n, v in state.items()
    }:
        raise BadConfig(otherwise)
    network.load_state_dict(state)


def rgb(pixels: Tensor, who: str) -> Tensor:
    """Return uint8 images [B, 1 or 3, H, W] with three channels. Raises BadConfig for other shapes or types."""
    if pixels.ndim != 4 or pixels.dtype != torch.uint8 or pixels.shape[1] not in (1, 3):
        raise BadConfig(
            f"{who} measures uint8 images [B, 1 or 3, H, W], got {str(pixels.dtype).removeprefix('torch.')} "
            f"{tuple(pixels.shape)}"
        )
    return pixels.expand(-1, 3, -1, -1)
