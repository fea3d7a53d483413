"""The interface of feature extractors, and how their weight files are read and checked."""

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from deme.models.checkpoint import open_tensors
from deme.system import BadConfig, files, locate

CHUNK = 50  # images or texts in a network at once


class ImageNetwork(Protocol):
    """Map uint8 images [B, C, H, W] of any size to float32 features [B, dimension] on the CPU.

    `name` describes everything that changes a feature: network, layer, resizing, value range.
    `suffix` is its short form, which ends the names of metrics (`kid_<suffix>`); `weights` is the
    sha256 of the weight file. `network` computes on `device`.
    """

    name: str
    weights: str
    suffix: str
    dimension: int
    network: Any = None  # a torch.nn.Module
    device: str = "cpu"

    def to(self, device: str) -> Self:
        """Move the network to a device and return self."""
        self.network.to(device)
        self.device = device
        return self

    def __call__(self, pixels: Tensor) -> Tensor: ...


class FeatureExtractor(ImageNetwork, Protocol):
    """A network of a distance; `frechet_name` is the name of the Frechet distance."""

    frechet_name: str


def weights_file(path: str, sha256: str | None) -> tuple[Path, str]:
    """Return the place of a weight file or folder, and its sha256.

    Raises MissingInput, and BadConfig if its sha256 is not the given one.
    """
    place = locate(path)
    found = files.sha256(place)
    if sha256 not in (None, found):
        raise BadConfig(
            f"{place} is not the expected file: its sha256 is {found}, expected {sha256}\n"
            "copy it again from where it came, or give the sha256 of the file that you mean"
        )
    return place, found


def read_weights(place: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a .pth file without executing code."""
    file = open_tensors(place)
    return {name: file.read(name) for name in file.specs}


def read_into(network: nn.Module, place: Path, message: str) -> None:
    """Load the weights of a file. Raises BadConfig(message) for other names or shapes."""
    try:
        network.load_state_dict(read_weights(place))
    except RuntimeError as error:
        raise BadConfig(message) from error


def rgb(pixels: Tensor, metric: str) -> Tensor:
    """Return uint8 images [B, 1 or 3, H, W] with three channels. Raises BadConfig for others."""
    if pixels.ndim != 4 or pixels.dtype != torch.uint8 or pixels.shape[1] not in (1, 3):
        raise BadConfig(
            f"{metric} measures uint8 images [B, 1 or 3, H, W], "
            f"got {pixels.dtype} {tuple(pixels.shape)}"
        )
    return pixels.expand(-1, 3, -1, -1)
