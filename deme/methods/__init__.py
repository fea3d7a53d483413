"""Training methods: how named loss terms are made from a batch. One file and one option file each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deme.diffusion.conditioning import EMPTY_CONDITION, Condition
from deme.diffusion.seeds import ShardedRandom
from deme.models.denoiser import DenoisingModel


class Method:
    """Turns images into named loss terms, whose sum is minimised; owns its teacher, if it has one.

    The constructor takes by name what it needs of: `weights` (of the network's squared error, [T]), `timesteps` (their
    sampler), `ranges` (the partition of [0, T)), `balancing`, `batch_size`; and the keys of its option file.
    """

    num_forward_passes_per_step = 3
    """The cost of a step in forward passes of the batch; a backward pass counts as two."""

    weights: Tensor | None = None
    """The weight of every timestep's loss, [T]: its mass per range is logged."""

    extra_module: nn.Module | None = None
    """What is trained or remembered beside the model: in every checkpoint, on the model's device."""

    whole_batch = False
    """Whether the loss is more than a mean over images, so that several processes cannot each take a part of a batch."""

    teacher: nn.Module | None = None
    """A frozen network that the loss looks at; it is compiled where the model is."""

    def prepare(
        self,
        pretrained: Callable[[], DenoisingModel],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Called once before training; `pretrained()` loads a fresh copy of the starting point, `dtype` is autocast's."""

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return scalar loss terms for images `x0` [B, C, H, W] in -1..1, or latents, of which the network is told `condition`."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, object]]:
        """Return optimizer groups of the parameters of `own`; here one with the model's settings."""
        parameters = list(self.extra_module.parameters()) if self.extra_module is not None else []
        return [{"params": parameters}] if parameters else []

    def report(self) -> dict[str, float]:
        """Return more numbers of the last batch, for the training curve."""
        return {}

    def finish(self) -> None:
        """Called once after training, to check what must not have changed."""
