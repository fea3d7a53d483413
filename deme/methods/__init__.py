"""Training methods: how a batch becomes named loss terms. One file and one option file each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deme.diffusion import EMPTY_CONDITION, Condition, ShardedRandom, TimestepSampler
from deme.models.denoiser import DenoisingModel


class Method:
    """Turns images into named loss terms, whose sum is minimised; owns its teacher, if it has one.

    The constructor takes by name what it needs of: `weights` (of the network's squared error, [T]),
    `timesteps` (their sampler), `ranges` (the partition of [0, T)), `balancing`, `batch_size`; and
    the keys of its option file.
    """

    # The weight of every timestep's loss, [T]. With `timesteps`, its share per range is logged.
    weights: Tensor | None = None
    timesteps: TimestepSampler | None = None
    # What is trained or stored beside the model: in every checkpoint, on the model's device.
    extra_module: nn.Module | None = None
    # Whether a run trains one expert, so that `expert` must be given.
    needs_expert: bool = False
    # Whether the loss is more than a mean over images, so that a batch cannot be distributed.
    whole_batch: bool = False
    # A frozen network that the loss uses; it is compiled if the model is.
    teacher: nn.Module | None = None

    def prepare(
        self,
        pretrained: Callable[[], DenoisingModel],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Get ready for training: `pretrained()` loads a fresh copy of the initial model.

        `dtype` is that of autocast, None without it.
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
