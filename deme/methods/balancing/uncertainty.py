"""Uncertainty weighting (Kendall et al. 2018) of task losses, as ANT uses it."""

import torch
from torch import Tensor, nn

from deme.methods.balancing import Balancing

MIN_LOG_VARIANCE = -30.0  # of a task whose loss is 0, where it would fall without bound


class Uncertainty(Balancing):
    """L = sum_j 0.5 (exp(-s_j) l_j / k + s_j) with learned log-variances s_j, all 0 at first.

    At the optimum s_j = log(l_j / k), so that every task contributes the same loss. The s_j have a
    learning rate of their own and no weight decay.
    """

    def __init__(self, num_tasks: int, lr: float = 0.025) -> None:
        super().__init__(num_tasks)
        if not lr > 0:
            raise ValueError(f"balancing.lr must be positive, got {lr}")
        self.lr = lr
        self.log_variance = nn.Parameter(torch.zeros(num_tasks))

    def weights(self) -> Tensor:
        return 0.5 * torch.exp(-self.log_variance.clamp_min(MIN_LOG_VARIANCE)) / self.num_tasks

    def objective(self, losses: Tensor) -> Tensor:
        return (self.weights() * losses).sum() + 0.5 * self.log_variance.sum()

    def param_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.log_variance], "lr": self.lr, "weight_decay": 0.0}]

    def report(self) -> dict[str, float]:
        return {f"log_variance/{j}": float(s) for j, s in enumerate(self.log_variance.detach())}
