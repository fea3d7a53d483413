"""Decouple: finetune a copy for one range of timesteps, held near the pretrained model.

Paper, section 3.2, eqs. 3-6.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    ShardedRandom,
    TimestepRange,
    TimestepSampler,
    bind_condition,
)
from deme.methods.finetune import Finetune, weighted_errors
from deme.models.denoiser import DenoisingModel
from deme.system import BadConfig, WorkFailed


class DeMe(Finetune):
    """L_dec + lambda_c L_cons (eq. 5): the denoising loss, and the distance to the teacher.

    The teacher is the frozen pretrained network, without projections, or another model; or with
    teacher="ema" the running average of the weights that are trained. It gets the same x_t, t and
    condition, and its distance has the same weight w(t) (docs/method.md#consistency).
    `consistency_weight`: lambda_c, or one for each of the `ranges`, which counts at the timesteps
    of that range. The range that is trained and the probabilistic sampling are the timestep
    sampler's.
    """

    def __init__(
        self,
        weights: Tensor,
        timesteps: TimestepSampler,
        consistency_weight: float | Sequence[float] = 1.0,
        teacher: str = "base",
        ranges: Sequence[TimestepRange] = (),
    ) -> None:
        super().__init__(weights, timesteps)
        self._factor, self._factor_of = 1.0, None
        if isinstance(consistency_weight, Sequence):
            given = list(consistency_weight)
            self._factor_of = by_timestep(given, ranges)
        else:
            given = [consistency_weight]
            self._factor = consistency_weight
        if min(given) < 0:
            raise BadConfig(
                f"method.consistency_weight must not be negative, got {consistency_weight}"
            )
        self._has_consistency = any(given)
        self.follows_average = teacher == "ema"
        self._hash = ""

    def prepare(
        self,
        pretrained: Callable[[], nn.Module],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load and freeze the teacher; its weights have the dtype that autocast casts them to.

        One that follows the average keeps its precision.
        """
        if not self._has_consistency:
            return
        if self.follows_average:
            self.teacher = pretrained().to(device).eval().requires_grad_(False)
        else:
            self.teacher = frozen(pretrained(), device, dtype)
            self._hash = parameter_hash(self.teacher)

    def follow(self, average: Sequence[Tensor]) -> None:
        """Let the teacher's parameters be the averages, with which they change from now on."""
        if self.teacher is not None and self.follows_average:
            for parameter, value in zip(self.teacher.parameters(), average, strict=True):
                parameter.data = value

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return the terms `denoising` and, with a consistency weight, `consistency`."""
        timesteps = draws.timesteps(self.timesteps)
        x_t, t, target, weight = self.draw(model, x0, draws, timesteps)
        prediction = bind_condition(model, condition)(x_t, t)
        terms = {"denoising": weighted_errors(prediction, target, weight).mean()}
        if self.teacher is not None:
            with torch.no_grad():
                teacher_prediction = bind_condition(self.teacher, condition)(x_t, t)
            if self._factor_of is not None:
                weight = weight * self._factor_of[timesteps].to(weight)
            distance = weighted_errors(prediction, teacher_prediction, weight).mean()
            terms["consistency"] = self._factor * distance
        return terms

    def finish(self) -> None:
        """Raise WorkFailed if training changed the teacher."""
        if self.teacher is not None and not self.follows_average:
            check_unchanged(self.teacher, self._hash)


def by_timestep(values: Sequence[float], ranges: Sequence[TimestepRange]) -> Tensor:
    """Return for each timestep the value of its range, [T] float64. Raises BadConfig."""
    if len(values) != len(ranges):
        raise BadConfig(
            "method.consistency_weight needs one number, or one for each of the "
            f"{len(ranges)} ranges; got {len(values)}: {list(values)}"
        )
    pairs = zip(ranges, values, strict=True)
    return torch.cat([torch.full((len(r),), v, dtype=torch.float64) for r, v in pairs])


def frozen(network: nn.Module, device: str, dtype: torch.dtype | None) -> nn.Module:
    """Return the network on the device, without gradients, as autocast to `dtype` sees it."""
    network.to(device).eval().requires_grad_(False)
    if dtype is not None:
        hold_as_cast(network, dtype)
    return network


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


def check_unchanged(teacher: nn.Module, before: str) -> None:
    """Raise WorkFailed if a teacher has another `parameter_hash` than before."""
    if parameter_hash(teacher) != before:
        raise WorkFailed(
            "the frozen teacher changed during training; this is a bug, "
            "and the result of this run must not be used"
        )
