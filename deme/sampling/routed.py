"""Sample from unmerged experts: at timestep t the expert of t's range predicts (paper eq. 7)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    Network,
    TimestepRange,
    bind_condition,
    check_partition,
    rows_of,
)
from deme.sampling.sampler import Step


class RoutedModel:
    """Route by the timestep itself, not by its position in the sampler's list (docs/method.md)."""

    def __init__(
        self, networks: Sequence[Network], ranges: Sequence[TimestepRange], num_timesteps: int
    ) -> None:
        check_partition(ranges, num_timesteps)
        if len(networks) != len(ranges):
            raise ValueError(f"{len(networks)} experts for {len(ranges)} ranges")
        self.networks = networks
        self.ends = torch.tensor([item.high for item in ranges], dtype=torch.float64)

    def segments(self, steps: Sequence[Step]) -> list[list[Step]]:
        """Split a sampler's steps where the expert changes, in their order."""
        owners = self._owners(torch.tensor([step.t for step in steps])).tolist()
        pairs = itertools.groupby(zip(steps, owners, strict=True), lambda pair: pair[1])
        return [[step for step, _ in segment] for _, segment in pairs]

    def _owners(self, t: Tensor) -> Tensor:
        """Return the expert of each timestep [B], on the CPU; timesteps may be fractions."""
        return torch.bucketize(t.cpu().double(), self.ends, right=True)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        """Return the prediction for `x_t` [B, ...] at timesteps `t` [B], a batch per range."""
        owner = self._owners(t)
        present = owner.unique().tolist()
        if len(present) == 1:
            return bind_condition(self.networks[present[0]], condition)(x_t, t)
        out = torch.empty_like(x_t)
        for index in present:
            rows = (owner == index).nonzero().flatten().to(x_t.device)
            network = bind_condition(self.networks[index], rows_of(condition, rows))
            out[rows] = network(x_t[rows], t[rows])
        return out
