"""The LightningModule: one optimizer step of any method, with an exponential moving average of the weights."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from deme.data import training_pixels
from deme.diffusion.conditioning import Condition
from deme.diffusion.seeds import ShardedRandom, generator, seeded
from deme.methods import Method
from deme.models.denoiser import DenoisingModel
from deme.system.errors import WorkFailed
from deme.training.distributed import Team

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]  # from parameter groups
EmaFactory = Callable[[Iterable[nn.Parameter]], EMAModel]
LearningRate = Callable[[int], float]
Start = Callable[[Any, ShardedRandom], tuple[Tensor, Condition]]


class DiffusionModule(pl.LightningModule):
    """Trains `model` by `method`. The randomness of micro-step k follows from (seed, k); masks of dropout from the rank, too.

    The processes of a `team` each hold their rows of a global batch, and make the step of its mean gradient.
    """

    def __init__(
        self,
        model: DenoisingModel,
        method: Method,
        optimizer: OptimizerFactory,
        learning_rate: LearningRate,
        ema: EmaFactory | None,
        seed: int,
        log_every: int,
        team: Team | None = None,
        start: Start = training_pixels,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.method = method
        self.extra_module = method.extra_module  # registered: on this device, in the checkpoint
        self.ema = ema(model.parameters()) if ema is not None else None
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._seed = seed
        self._log_every = log_every
        self.team = team
        self._start = start  # what makes x_0 and the condition of a batch
        self._drops = any(
            isinstance(m, (nn.Dropout, nn.Dropout2d)) and m.p > 0 for m in model.modules()
        )
        self.micro_step = 0
        self._finite = torch.tensor(True)

    def on_fit_start(self) -> None:
        if self.ema is not None:
            self.ema.to(self.device)
        self._finite = torch.tensor(True, device=self.device)

    def on_train_start(self) -> None:
        self.micro_step = self.trainer.global_step * self.trainer.accumulate_grad_batches

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        count = len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))
        rank, size = (self.team.rank, self.team.size) if self.team is not None else (0, 1)
        shared = generator("train", self._seed, self.micro_step)
        draws = ShardedRandom(shared, count * size, rank * count, (rank + 1) * count)
        masks = seeded(self.device, "dropout", self._seed, self.micro_step, rank)
        self.micro_step += 1
        x0, condition = self._start(batch, draws)
        with masks if self._drops else contextlib.nullcontext():
            terms = self.method.losses(self.model, x0, draws, condition)
        loss = torch.stack(list(terms.values())).sum()
        self._finite = self._finite & torch.isfinite(loss.detach())
        if (self.trainer.global_step + 1) % self._log_every == 0:
            self.check_finite()
            values = torch.stack([loss, *terms.values()]).detach()
            values = self.team.mean(values) if self.team is not None else values
            self.log("loss", values[0], prog_bar=True)
            for name, term in zip(terms, values[1:], strict=True):
                self.log(f"loss/{name}", term, prog_bar=len(terms) > 1)
            self.log_dict(self.method.report())
        return loss

    def check_finite(self) -> None:
        """Raise WorkFailed if any loss since the start was NaN or infinite, in every process."""
        bad = int(not bool(self._finite))
        if self.team.most(bad) if self.team is not None else bad:
            raise WorkFailed(
                f"the loss became NaN or infinite by step {self.trainer.global_step}\n"
                "try a smaller optimizer.lr, or look at the data; the last good checkpoint is kept"
            )

    def on_after_backward(self) -> None:
        """Average gradients before the optimizer or a loss scaler looks at them, once per optimizer step."""
        if self.team is not None and self.micro_step % self.trainer.accumulate_grad_batches == 0:
            self.team.average(p.grad for p in self.parameters() if p.grad is not None)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.step(self.model.parameters())

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the norm of the model's gradient alone: what a method learns beside it has no part in it."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(
            [{"params": list(self.model.parameters())}, *self.method.groups()]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["ema"])

    def weights(self) -> dict[str, Tensor]:
        """Return the model's state with its parameters replaced by their moving averages, if there is an EMA. No copies."""
        state = {name: value.detach() for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            names = (name for name, _ in self.model.named_parameters())
            state |= {n: v.detach() for n, v in zip(names, self.ema.shadow_params, strict=True)}
        return state
