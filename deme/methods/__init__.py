"""Training methods: how a batch becomes named loss terms. One file and one option file each."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deme.diffusion import EMPTY_CONDITION, Condition, ShardedRandom, TimestepSampler
from deme.models.denoiser import DenoisingModel

Sample = tuple[Tensor, ShardedRandom, Condition]  # the arguments of `losses` but the model


def single_process(_: Tensor) -> None:
    """Do nothing: with one process the sum is the value itself."""


class Method:
    """Turns images into named loss terms, whose sum is minimised; owns its teacher, if it has one.

    The constructor takes by name what it needs of: `weights` (of the network's squared error, [T]),
    `timesteps` (their sampler), `ranges` (the partition of [0, T)), `balancing`, `batch_size`,
    `experts` (folders of inputs.experts, one per range); and the keys of its option file.
    """

    # The weight of every timestep's loss, [T]. With `timesteps`, its share per range is logged.
    weights: Tensor | None = None
    timesteps: TimestepSampler | None = None
    # What is trained or stored with the model: in every checkpoint, on the model's device.
    extra_module: nn.Module | None = None
    # Replaces values by their sums over the processes that train together, in place.
    all_reduce_sum: Callable[[Tensor], None] = staticmethod(single_process)
    # Whether `losses` computes gradients of its own, which are not there for a sharded model.
    uses_gradients: bool = False
    # A frozen network that the loss uses; it is compiled if the model is.
    teacher: nn.Module | None = None
    # How many batches are passed to `look_ahead` at once, 1 for none.
    lookahead: int = 1

    def prepare(
        self,
        pretrained: Callable[[], nn.Module],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Get ready for training: `pretrained()` loads a fresh copy of the teacher.

        That is the initial model, unless the run names another teacher. `dtype` is that of
        autocast, None without it.
        """

    def follow(self, average: Sequence[Tensor]) -> None:
        """Receive the running averages of the model's parameters, which change in place.

        Called when training begins or goes on, if the run has an average.
        """

    def look_ahead(self, model: DenoisingModel, samples: Sequence[Sample], first: int) -> None:
        """Receive the next `lookahead` batches, or those that are left, before their `losses`.

        Called for batches k, ..., k + lookahead - 1 with k divisible by `lookahead`; of a run that
        is resumed between two of them the first `first` are over.
        """

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return scalar loss terms for x0 [B, C, H, W]: images in -1..1, or latents."""
        raise NotImplementedError

    def param_groups(self) -> list[dict[str, object]]:
        """Return optimizer groups of the parameters of `extra_module`."""
        parameters = list(self.extra_module.parameters()) if self.extra_module is not None else []
        return [{"params": parameters}] if parameters else []

    def report(self) -> dict[str, float]:
        """Return more numbers about the last batch, for the training curve."""
        return {}

    def finish(self) -> None:
        """Check after training what must not have changed."""
