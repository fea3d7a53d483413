"""Unmerged experts as one frozen network that learns nothing: the teacher of method=distill."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    TimestepRange,
    bind_condition,
    check_partition,
    rows_of,
)
from deme.models.adapter import factors
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder


class RoutedExperts(nn.Module):
    """At timestep t the expert of t's range predicts (paper eq. 7), a batch for each range.

    `folders` of weights of the same shapes, one per range. All experts are in memory, or with
    `one_resident` one of them: the weights of the others are read from their folders when it is
    their turn, or on a GPU wait in the memory of the CPU. The order of the ranges changes from call
    to call so that a call brings in all experts but one. `num_swaps` counts how often weights were
    brought in. Ranges of more than 1.5 `batch_size` images are predicted in several batches.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        ranges: Sequence[TimestepRange],
        batch_size: int,
        one_resident: bool = False,
    ) -> None:
        super().__init__()
        check_partition(ranges, ranges[-1].high)
        self.folders, self.batch_size = list(folders), batch_size
        self.ends = torch.tensor([item.high for item in ranges])
        loaded = folders[:1] if one_resident else folders
        self.models = nn.ModuleList(load_folder(str(folder), advice="") for folder in loaded)
        self.current = self.num_swaps = 0
        self._waiting: dict[int, list[Tensor]] = {}  # weights in the memory of the CPU

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        """Return the predictions [B, ...] for `x_t` [B, ...] at timesteps `t` [B].

        With `t` on the CPU nothing waits for a GPU.
        """
        owner = torch.bucketize(t.cpu(), self.ends, right=True)
        order = owner.argsort(stable=True)
        counts = owner.bincount(minlength=len(self.ends)).tolist()
        starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
        rows, t = order.to(x_t.device), t.to(x_t.device)
        x_t, t, condition = x_t[rows], t[rows], rows_of(condition, rows)
        out = torch.empty_like(x_t)
        for index in self._turns([index for index, count in enumerate(counts) if count]):
            network = self._expert(index)
            for part in self._parts(starts[index], starts[index + 1]):
                prediction = bind_condition(network, rows_of(condition, part))(x_t[part], t[part])
                out[rows[part]] = prediction.to(out.dtype)
        return out

    def _turns(self, present: list[int]) -> list[int]:
        """Return the ranges in the order of prediction: that of the expert in memory first."""
        return sorted(present, key=lambda index: index != self.current)

    def _parts(self, start: int, stop: int) -> list[slice]:
        """Split rows start:stop into nearly equal parts of about `batch_size` rows."""
        count = max(1, round((stop - start) / self.batch_size))
        ends = [start + (stop - start) * i // count for i in range(count + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    def _expert(self, index: int) -> nn.Module:
        """Return an expert; bring its weights in if another one is in memory."""
        if len(self.models) > 1 or len(self.folders) == 1:
            return self.models[index]
        (live,) = self.models
        assert isinstance(live, DenoisingModel)
        if index != self.current:
            self.current = -1  # half read, should reading fail
            own = factors(live.network) or live.state_dict()  # of a LoRA, its base stays
            state = [value.detach() for value in own.values()]
            if index in self._waiting:
                for value, kept in zip(state, self._waiting[index], strict=True):
                    value.copy_(kept, non_blocking=True)
            else:
                live.read_weights(self.folders[index])
                if state[0].is_cuda:
                    self._waiting[index] = [value.cpu().pin_memory() for value in state]
            self.current = index
            self.num_swaps += 1
        return live

    def compile(self, *args: object, **kwargs: object) -> None:
        """Compile the experts, not what routes between them."""
        for model in self.models:
            model.compile(*args, **kwargs)
