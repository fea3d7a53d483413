"""Balancing: how k task losses, or their gradients, become one update.

One file and one option file each (docs/method.md#balancing).
"""

import torch
from torch import Generator, Tensor, nn


class Balancing(nn.Module):
    """Weights of k tasks; this base class gives each 1 / k.

    `weights()` multiplies the task losses. Parameters are trained with the model's; parameters
    and buffers are in the checkpoint. A balancing that uses task gradients says so in
    `uses_gradients` and, for each batch, in `wants_gradients`; `observe` gets their Gram matrix.
    """

    uses_gradients: bool = False

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"balancing needs at least one task, got {num_tasks}")
        self.num_tasks = num_tasks

    def weights(self) -> Tensor:
        """Return the current weights of the task losses, [k]."""
        return torch.full((self.num_tasks,), 1 / self.num_tasks)

    def objective(self, losses: Tensor) -> Tensor:
        """Return what to minimise, a scalar, from the task losses [k]."""
        return (self.weights().to(losses) * losses).sum()

    def wants_gradients(self) -> bool:
        """Return whether this batch's task gradients are needed. Called once per batch."""
        return self.uses_gradients

    def observe(self, gram: Tensor, generator: Generator) -> None:
        """Set the weights from the Gram matrix of the task gradients, [k, k] float64, finite."""

    def param_groups(self) -> list[dict[str, object]]:
        """Return optimizer groups of the parameters; here one, with the model's settings."""
        parameters = list(self.parameters())
        return [{"params": parameters}] if parameters else []

    def report(self) -> dict[str, float]:
        """Return numbers to log together with the weights."""
        return {}
