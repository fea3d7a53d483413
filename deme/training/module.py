"""The LightningModule: one optimizer step of any method, with a moving average of the weights."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from deme.data import training_pixels
from deme.diffusion import Condition, ShardedRandom, generator, seeded
from deme.merging.power_profiles import TRACKED
from deme.methods import Method, Sample
from deme.models.denoiser import DenoisingModel
from deme.system import WorkFailed
from deme.training.distributed import ProcessGroup
from deme.training.due import is_recorded
from deme.training.ema import PowerAverages, WeightAverage
from deme.training.sharding import full_tensors, is_sharded, shard_checkpoint

# from parameter groups
OptimizerFactory = Callable[[list[dict[str, object]]], torch.optim.Optimizer]
EmaFactory = Callable[[Iterable[nn.Parameter]], WeightAverage]
LearningRate = Callable[[int], float]
Batch = Tensor | Mapping[str, Tensor]
TrainingSample = Callable[..., tuple[Tensor, Condition]]  # of a Batch and a ShardedRandom


class Losses(nn.Module):
    """The losses of a method as a module, which holds everything that is trained.

    Without a batch it returns the sum of all parameters.
    """

    def __init__(self, model: DenoisingModel, method: Method) -> None:
        super().__init__()
        self.model, self.extra_module, self.method = model, method.extra_module, method

    def forward(self, x0: Tensor | None = None, *others: Any) -> Tensor | dict[str, Tensor]:
        if x0 is None:
            return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        return self.method.losses(self.model, x0, *others)


class DiffusionModule(pl.LightningModule):
    """Trains `model` by `method`.

    The random numbers of micro-step k follow from (seed, k), those of dropout from the rank, too.
    The processes of a `group` each hold their rows of a global batch and make the step of its mean
    gradient, by DistributedDataParallel, or by fully_shard if the model is sharded.
    `training_sample` returns x_0 and the condition of a batch.
    """

    def __init__(
        self,
        model: DenoisingModel,
        method: Method,
        optimizer: OptimizerFactory,
        learning_rate: LearningRate,
        ema: EmaFactory | None,
        seed: int | str,
        log_every: int,
        group: ProcessGroup | None = None,
        training_sample: TrainingSample = training_pixels,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.method = method
        self.extra_module = method.extra_module  # registered: on this device, in the checkpoint
        self._trained = list(model.trained_parameters().values())
        self.ema = ema(self._trained) if ema is not None else None
        self.strict_loading = model.adapter is None  # checkpoints hold what is trained
        self.group = group
        self._optimizer, self._learning_rate = optimizer, learning_rate
        self._seed, self._log_every = seed, log_every
        self._training_sample = training_sample
        self._has_dropout = any(
            isinstance(m, (nn.Dropout, nn.Dropout2d)) and m.p > 0 for m in model.modules()
        )
        self.micro_step = 0
        self._ahead: deque[Sample] = deque()  # batches that the method has seen already
        self._finite = torch.tensor(True)
        self.is_sharded = is_sharded(model)
        # in a list, so that its parameters are not those of this module a second time
        self._losses: list[nn.Module] = []
        if group is not None:
            method.all_reduce_sum = group.all_reduce_sum

    @property
    def is_first(self) -> bool:
        """Whether this is the only process, or the first of several, which writes files."""
        return self.group is None or self.group.rank == 0

    def on_fit_start(self) -> None:
        if self.ema is not None:
            self.ema.to(self.device)
        self._finite = torch.tensor(True, device=self.device)

    def on_train_start(self) -> None:
        self.micro_step = self.trainer.global_step * self.trainer.accumulate_grad_batches
        self._ahead.clear()
        losses: nn.Module = Losses(self.model, self.method)
        if self.group is not None and not self.is_sharded:
            losses = self.group.parallel(losses)
        self._losses = [losses]
        if self.ema is not None:
            self.method.follow(self.ema.shadow_params)

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor:
        x0, draws, condition = self._next_sample(batch)
        rank = self.group.rank if self.group is not None else 0
        dropout = seeded(self.device, "dropout", self._seed, self.micro_step, rank)
        self.micro_step += 1
        with dropout if self._has_dropout else contextlib.nullcontext(), self._reduction():
            terms = self._losses[0](x0, draws, condition)
        loss = torch.stack(list(terms.values())).sum()
        self._finite = self._finite & torch.isfinite(loss.detach())
        if self._is_recorded:
            self.check_finite()
            values = torch.stack([loss, *terms.values()]).detach()
            values = self.group.mean(values) if self.group is not None else values
            names = ["loss", *(f"loss/{name}" for name in terms)]
            self.log_dict(dict(zip(names, values, strict=True)))
            self.log_dict(self.method.report())
            self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    @property
    def _is_recorded(self) -> bool:
        """Whether the curve has a row of this optimizer step."""
        return is_recorded(self.trainer.global_step + 1, self._log_every, self.trainer.max_steps)

    def _next_sample(self, batch: Batch | list[Batch]) -> Sample:
        """Return x_0, the draws and the condition of this micro-step.

        A list has several batches, which the method sees first: those of a whole window, or the
        only one of the window's later steps, which are known already.
        """
        if not isinstance(batch, list):
            return self._sample(batch, self.micro_step)
        if not self._ahead:
            over = self.micro_step % self.method.lookahead  # of a run that is resumed
            steps = range(self.micro_step - over, self.micro_step - over + len(batch))
            samples = [self._sample(each, step) for each, step in zip(batch, steps, strict=True)]
            self.method.look_ahead(self.model, samples, over)
            self._ahead.extend(samples[over:])
        return self._ahead.popleft()

    def _sample(self, batch: Batch, micro_step: int) -> Sample:
        count = len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))
        rank, size = (self.group.rank, self.group.size) if self.group is not None else (0, 1)
        shared = generator("train", self._seed, micro_step)
        draws = ShardedRandom(shared, count * size, rank * count, (rank + 1) * count)
        x0, condition = self._training_sample(batch, draws)
        return x0, draws, condition

    def check_finite(self) -> None:
        """Raise WorkFailed if any loss since the start was NaN or infinite in any process."""
        bad = int(not bool(self._finite))
        if self.group.all_reduce_max(bad) if self.group is not None else bad:
            raise WorkFailed(
                f"the loss became NaN or infinite by step {self.trainer.global_step}\n"
                "try a smaller optimizer.lr, or look at the data; the last good checkpoint is kept"
            )

    def _reduction(self) -> contextlib.AbstractContextManager[None]:
        """Average gradients over the processes with the last batch of an optimizer step only."""
        is_last = self.micro_step % self.trainer.accumulate_grad_batches == 0
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(is_last)
        elif isinstance(losses := self._losses[0], DistributedDataParallel) and not is_last:
            return cast(contextlib.AbstractContextManager[None], losses.no_sync())
        return contextlib.nullcontext()

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        super().optimizer_step(*args, **kwargs)  # type: ignore[arg-type]
        if self.ema is not None:
            self.ema.step(self._trained)
            decay = getattr(self.ema, "cur_decay_value", None)  # diffusers' name
            if self._is_recorded and decay is not None:
                self.log("ema_decay", decay)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm of the model's parameters, without other parameters of the method.

        The norm before clipping is recorded, except for gradients that a fused optimizer has yet to
        divide by float16's loss scale.
        """
        half = self.trainer.precision == "16-mixed"
        scaled = half and getattr(optimizer, "_step_supports_amp_scaling", False)
        if gradient_clip_val:
            norm = torch.nn.utils.clip_grad_norm_(self._trained, gradient_clip_val)
        elif self._is_recorded:
            gradients = [p.grad for p in self._trained if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        if self._is_recorded and not scaled:
            self.log("gradient_norm", full_tensors(norm))

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        optimizer = self._optimizer(self._param_groups())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _param_groups(self) -> list[dict[str, object]]:
        return [{"params": self._trained}, *self.method.param_groups()]

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        if self.model.adapter is not None:
            state = cast(dict[str, Tensor], checkpoint["state_dict"])
            frozen = {n for n, p in self.model.named_parameters() if not p.requires_grad}
            left = {n: v for n, v in state.items() if n.removeprefix("model.") not in frozen}
            checkpoint["state_dict"] = left
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        if self.is_sharded:
            groups = (cast(list[Tensor], group["params"]) for group in self._param_groups())
            trained = [parameter for group in groups for parameter in group]
            shard_checkpoint(checkpoint, self.model, trained)
        if self.ema is not None:
            self.ema.load_state_dict(cast(dict[str, object], checkpoint["ema"]))

    def weights(self, averaged: bool = True) -> dict[str, Tensor]:
        """Return the model's state, with averaged parameters if wanted and there.

        No copies, unless the model is sharded: then all processes call this function.
        """
        average = self.ema.shadow_params if averaged and self.ema is not None else None
        return self._state(average)

    @contextlib.contextmanager
    def evaluation_mode(self, averaged: bool) -> Iterator[DenoisingModel]:
        """Yield the model in evaluation mode, with its EMA parameters if `averaged` and available.

        Afterwards its own parameters are restored bit for bit: they are set aside, not copied.
        """
        parameters = self._trained
        modes = [(part, part.training) for part in self.model.modules()]
        own = [parameter.data for parameter in parameters]
        put = _put
        if self.is_sharded:  # fully_shard knows where the data of its parameters are
            own, put = [data.clone() for data in own], _copy
        try:
            if averaged and self.ema is not None:
                put(parameters, self.ema.shadow_params)
            yield self.model.eval()
        finally:
            if isinstance(self.model, FSDPModule):
                self.model.reshard()  # a forward pass without a backward pass leaves parts whole
            put(parameters, own)
            for part, trains in modes:
                part.training = trains

    def profiles(self) -> dict[float, dict[str, Tensor]]:
        """Return the states of the power-function averages that snapshots hold, by length."""
        if not isinstance(self.ema, PowerAverages):
            return {}
        return {length: self._state(self.ema.averages[length]) for length in TRACKED}

    def _state(self, average: Sequence[Tensor] | None) -> dict[str, Tensor]:
        names = list(self.model.trained_parameters())
        state = {name: value.detach() for name, value in self.model.state_dict().items()}
        if self.model.adapter is not None:
            state = {name: state[name] for name in names}
        if average is not None:
            state |= {n: v.detach() for n, v in zip(names, average, strict=True)}
        return full_tensors(state) if self.is_sharded else state


def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value


def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)
