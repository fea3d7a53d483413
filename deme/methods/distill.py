"""Distillation of routed experts: one model learns what they answer, at every timestep.

Distillation is Hinton et al. 2015, arXiv 1503.02531; several experts of ranges of timesteps as its
teacher are an extension of the paper, whose merge combines their weights instead.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deme.diffusion import (
    EMPTY_CONDITION,
    Condition,
    ShardedRandom,
    TimestepRange,
    TimestepSampler,
    bind_condition,
    joined,
)
from deme.methods import Sample
from deme.methods.deme import check_unchanged, frozen, parameter_hash
from deme.methods.finetune import Finetune, weighted_errors
from deme.models.adapter_files import is_adapter
from deme.models.denoiser import DenoisingModel
from deme.models.routed_experts import RoutedExperts
from deme.system import BadConfig


class Distill(Finetune):
    """E w(t) ||expert_i(t)(x_t, t) - network(x_t, t)||^2, i(t) being the range of t.

    `experts`: a model folder for each of the `ranges`. The experts are frozen and get the same x_t,
    t and condition. `denoising_weight` times the denoising loss is added. `lookahead`: for how many
    batches the experts answer at once, so that each of them sees whole batches; None: for as many
    as there are experts. `resident`: how many experts are in memory, all or one (`RoutedExperts`);
    of LoRAs one base and one LoRA.
    """

    def __init__(
        self,
        weights: Tensor,
        timesteps: TimestepSampler,
        ranges: Sequence[TimestepRange],
        experts: Sequence[Path],
        batch_size: int,
        denoising_weight: float = 0.0,
        lookahead: int | None = None,
        resident: str = "all",
    ) -> None:
        super().__init__(weights, timesteps)
        if resident not in ("all", "one"):
            raise BadConfig(f"method.resident must be all or one, got {resident!r}")
        if not experts:
            raise BadConfig(
                "method=distill learns from the experts of all ranges, and inputs.experts names "
                "none\ntype: inputs.experts=[<run>,<run>,...]"
            )
        self.ranges, self.experts = tuple(ranges), list(experts)
        self.batch_size, self.denoising_weight = batch_size, denoising_weight
        self.lookahead: int = lookahead or len(self.experts)
        # LoRAs take turns in one base: only their factors are read again
        one = resident == "one" or all(map(is_adapter, self.experts))
        self.one_resident = one and len(self.experts) > 1
        self.teacher: RoutedExperts | None = None
        self._ahead: deque[tuple[Tensor, ...]] = deque()
        self._hash = ""

    def prepare(
        self,
        pretrained: Callable[[], nn.Module],
        device: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load and freeze the experts; their weights have the dtype that autocast casts to."""
        experts = RoutedExperts(self.experts, self.ranges, self.batch_size, self.one_resident)
        frozen(experts, device, dtype)
        self.teacher = experts
        self._hash = "" if self.one_resident else parameter_hash(experts)

    def look_ahead(self, model: DenoisingModel, samples: Sequence[Sample], first: int) -> None:
        """Compute the experts' predictions for several batches, with random numbers drawn here."""
        noisy, conditions, timesteps = [], [], []
        for x0, draws, condition in samples:
            timesteps.append(draws.timesteps(self.timesteps))
            noisy.append(self.draw(model, x0, draws, timesteps[-1]))
            conditions.append(condition)
        assert self.teacher is not None
        with torch.no_grad():
            predictions = bind_condition(self.teacher, joined(conditions))(
                torch.cat([x_t for x_t, *_ in noisy]), torch.cat(timesteps)
            )
        parts = predictions.split([len(t) for t in timesteps])
        ahead = [(*each, part) for each, part in zip(noisy, parts, strict=True)]
        self._ahead = deque(ahead[first:])

    def losses(
        self,
        model: DenoisingModel,
        x0: Tensor,
        draws: ShardedRandom,
        condition: Condition = EMPTY_CONDITION,
    ) -> dict[str, Tensor]:
        """Return the terms `distillation` and, with a weight, `denoising`."""
        if not self._ahead:
            self.look_ahead(model, [(x0, draws, condition)], 0)
        x_t, t, target, weight, teacher_prediction = self._ahead.popleft()
        prediction = bind_condition(model, condition)(x_t, t)
        terms = {"distillation": weighted_errors(prediction, teacher_prediction, weight).mean()}
        if self.denoising_weight:
            errors = weighted_errors(prediction, target, weight)
            terms["denoising"] = self.denoising_weight * errors.mean()
        return terms

    def finish(self) -> None:
        """Raise WorkFailed if training changed the experts."""
        if self.teacher is not None and self._hash:
            check_unchanged(self.teacher, self._hash)
