"""What a network of diffusers takes: the inputs of one image, from the network's config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = tuple[tuple[int, ...], torch.dtype]  # shape and type of an input for one image


@dataclass(frozen=True)
class NetworkInputs:
    """The arguments of a network's forward, by name.

    `rows`: those with a row for each image; the first is what is denoised. One called a.b is b in
    the dictionary a. `constants()` returns those without a row for each image. `predicted`: the
    channels of the prediction, if they are neither those of the noisy image nor twice as many.
    """

    rows: Mapping[str, Row]
    constants: Callable[[], Mapping[str, object]] = dict
    predicted: int | None = None

    def batch(self, count: int) -> dict[str, Any]:
        """Return zeros as the arguments of `count` images."""
        found: dict[str, Any] = {}
        for name, (shape, dtype) in self.rows.items():
            outer, dot, inner = name.partition(".")
            value = torch.zeros(count, *shape, dtype=dtype)
            if dot:
                found.setdefault(outer, {})[inner] = value
            else:
                found[name] = value
        return {**found, **self.constants()}

    def denoised(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the argument of a batch that is denoised."""
        value: Tensor = batch[next(iter(self.rows))]
        return value


# (config, number of tokens of a text; None: the family's usual number) -> the inputs
InputsOf = Callable[[Mapping[str, Any], int | None], NetworkInputs]


def numbers(*shape: int) -> Row:
    """Return the row of an input of floating-point numbers."""
    return shape, torch.float32


def image_and_time(stated: Mapping[str, Any], name: str) -> dict[str, Row]:
    """Return the rows of the noisy image, the argument `name`, and of the timestep."""
    return {
        name: numbers(stated["in_channels"], *height_and_width(stated["sample_size"])),
        "timestep": numbers(),
    }


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a config's sample_size."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
