"""PCGrad, projecting conflicting gradients (Yu et al. 2020, algorithm 1)."""

import torch
from torch import Generator, Tensor, nn

from deme.methods.balancing import Balancing


class PCGrad(Balancing):
    """Remove from every task gradient its part along each other one that it opposes.

    The others come in random order. Projected gradients are linear combinations of the given ones,
    and their inner products follow from the Gram matrix, so only coefficients are computed. The sum
    is divided by k, as in ANT.
    """

    uses_gradients = True

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.coefficients = nn.Buffer(torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64))

    def weights(self) -> Tensor:
        return self.coefficients

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
