"""Decouple: finetune a copy for one range of timesteps, held near the pretrained model.

Paper, section 3.2, eqs. 3-6.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    ShardedRandom,
    TimestepSampler,
    bind_condition,
)
from deme.methods.finetune import Finetune, weighted_errors
from deme.models.denoiser import DenoisingModel
from deme.system import BadConfig, WorkFailed


class DeMe(Finetune):
    """L_dec + lambda_c L_cons (eq. 5): the denoising loss, and the distance to the teacher.

    The teacher is the frozen pretrained network. It has no projections, gets the same x_t, t and
    condition, and its distance has the same weight w(t) (docs/method.md#consistency). The range and
    the probabilistic sampling are the timestep sampler's.
    """

    needs_expert = True

    def __init__(
        self, weights: Tensor, timesteps: TimestepSampler, consistency_weight: float = 1.0
    ) -> None:
        super().__init__(weights, timesteps)
        if consistency_weight < 0:
            raise BadConfig(
                f"method.consistency_weight must not be negative, got {consistency_weight}"
            )
        self.consistency_weight = consistency_weight
        self._hash = ""

    def prepare(
        self,
        pretrained: Callable[[], DenoisingModel],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load and freeze the teacher; its weights have the dtype that autocast casts them to."""
        if self.consistency_weight:
            self.teacher = pretrained().to(device).eval().requires_grad_(False)
            if dtype is not None:
                hold_as_cast(self.teacher, dtype)
            self._hash = parameter_hash(self.teacher)

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return the terms `denoising` and, with a consistency weight, `consistency`."""
        x_t, t, target, weight = self.draw(model, x0, draws)
        prediction = bind_condition(model, condition)(x_t, t)
        terms = {"denoising": weighted_errors(prediction, target, weight).mean()}
        if self.teacher is not None:
            with torch.no_grad():
                answer = bind_condition(self.teacher, condition)(x_t, t)
            distance = weighted_errors(prediction, answer, weight).mean()
            terms["consistency"] = self.consistency_weight * distance
        return terms

    def finish(self) -> None:
        """Raise WorkFailed if training changed the teacher."""
        if self.teacher is not None and parameter_hash(self.teacher) != self._hash:
            raise WorkFailed(
                "the frozen teacher changed during training; this is a bug, "
                "and the result of this run must not be used"
            )


def hold_as_cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions and linear layers once, as autocast does on every call.

    Norms stay float32. Under autocast the predictions stay the same bit for bit.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.to(dtype)


def parameter_hash(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()
