"""Training methods: how named loss terms are made from a batch. One file and one option file each."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from deme.models.unconditional import UnconditionalModel
from deme.seeds import Rows


class Method(Protocol):
    """Turns images into named loss terms, whose sum is minimised; owns its teacher, if it has one.

    `forwards_per_step` is the cost of a step in forward passes of the batch (a backward pass counts as two).
    """

    forwards_per_step: int

    def prepare(self, pretrained: Callable[[], UnconditionalModel], device: str) -> None:
        """Called once before training; `pretrained()` loads a fresh copy of the starting point."""

    def losses(self, model: UnconditionalModel, x0: Tensor, rows: Rows) -> dict[str, Tensor]:
        """Return scalar loss terms for images `x0` [B, C, H, W] in -1..1."""

    def finish(self) -> None:
        """Called once after training, to check what must not have changed."""
