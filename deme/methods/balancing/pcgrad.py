"""PCGrad, projecting conflicting gradients (Yu et al. 2020, algorithm 1)."""

import torch
from torch import Generator, Tensor

from deme.methods.balancing import Balancing


class PCGrad(Balancing):
    """Every task gradient loses its part along each other task's gradient that it opposes, in random order.

    The projected gradients are combinations of the given ones, and their inner products follow from the Gram matrix, so the
    projection happens on coefficients. Like ANT, the sum is divided by k.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.register_buffer(
            "coefficients", torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64)
        )

    coefficients: Tensor

    def weights(self) -> Tensor:
        return self.coefficients

    def wants_gradients(self) -> bool:
        return True

    def observe(self, gram: Tensor, generator: Generator) -> None:
        total = torch.zeros(self.num_tasks, dtype=torch.float64)
        for i in range(self.num_tasks):
            mine = torch.zeros(self.num_tasks, dtype=torch.float64)  # g_i' = sum_m mine[m] g_m
            mine[i] = 1
            for j in torch.randperm(self.num_tasks, generator=generator).tolist():
                inner = float(mine @ gram[:, j])
                if j != i and inner < 0 and gram[j, j] > 0:
                    mine[j] -= inner / gram[j, j]
            total += mine
        self.coefficients.copy_(total / self.num_tasks)
