"""torch.compile for training, believed only after its gradients were compared to eager ones.

Inductor has given silently wrong training gradients (torch 2.13 on a CPU: the loss right, 74 of
104 gradients of a small UNet wrong), so every run compares one batch before it trains.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from deme.data import EncodedDataset, Images, eval_sample
from deme.diffusion import Condition, bind_condition, generator, moved, seeded
from deme.models.denoiser import DenoisingModel
from deme.system import WorkFailed, first_line, logger

# Of the loss. A power of two is exact in bfloat16 and float32 and keeps float16 from underflow.
SCALE = 1024.0
# Times what rounding alone changes; correct compiled gradients differ by 0.4 to 2.6 times that.
NOISE = 6.0
OPTIONS = {"fallback_random": True}  # of inductor: the same dropout masks as eager


@dataclass(frozen=True)
class Batch:
    """x_t [B, C, H, W], t [B] and the network's target, and the dtype of autocast."""

    x_t: Tensor
    t: Tensor
    target: Tensor
    dtype: torch.dtype | None
    condition: Condition = field(default_factory=dict)

    @property
    def roundoff(self) -> float:
        """Half the distance from 1 to the next number: the relative error of one rounding."""
        return torch.finfo(self.dtype or torch.float32).eps / 2


def make_batch(
    model: DenoisingModel,
    images: Images | EncodedDataset,
    batch_size: int,
    device: str,
    dtype: torch.dtype | None,
    seed: int,
) -> Batch:
    """Return a noisy batch as in training, from random numbers that training does not use."""
    draw = generator("compile check", seed)
    indices = torch.randint(len(images), (batch_size,), generator=draw).tolist()
    x0, condition = eval_sample(images, indices)
    x0 = x0.to(device)
    eps = torch.randn(x0.shape, generator=draw).to(device)
    t = torch.randint(model.schedule.num_timesteps, (batch_size,), generator=draw).to(device)
    return Batch(
        model.schedule.add_noise(x0, eps, t),
        t,
        model.schedule.target(model.prediction_type, x0, eps, t),
        dtype,
        moved(condition, device),
    )


def compile_checked(model: DenoisingModel, batch: Batch, teacher: nn.Module | None = None) -> None:
    """Compile the model (and a teacher) in place, which keeps the names of its weights.

    Raises WorkFailed if compiling fails, or if a parameter's gradient differs from eager by more
    than a tolerance: NOISE times what changes when the input is perturbed by one rounding (all
    later roundings then differ, as in a compiled network), plus sqrt(u) of the gradient's norm,
    where u is the unit roundoff of the run's precision: 2e-4 in float32, 4e-2 in bfloat16. So
    gradients that are only rounding errors (an attention key's bias) may differ freely, a wrong
    one, which is off by about its norm, may not. Weights, gradients and random states are kept.
    """
    torch.compiler.reset()  # many models in one process would exceed torch's limit, hence be eager
    expected, noise = gradients(model, batch), perturbed(model, batch)

    @torch.no_grad()
    def of_teacher() -> Tensor | None:
        return _predict(teacher, batch) if teacher is not None else None

    before = of_teacher()
    try:
        for network in (model, teacher):
            if network is not None:
                network.compile(options=OPTIONS)
        found, after = gradients(model, batch), of_teacher()
    except Exception as error:
        raise WorkFailed(
            f"torch.compile failed here with torch {torch.__version__}: "
            f"{first_line(error):.200}\ntype: compute.compile=false"
        ) from error
    least = batch.roundoff**0.5
    wrong: dict[str, float] = {}
    for name, gradient in expected.items():
        away = float((found[name] - gradient).norm())
        allowed = NOISE * float((noise[name] - gradient).norm()) + least * float(gradient.norm())
        if not away <= allowed:
            wrong[name] = away / max(float(gradient.norm()), 1e-30)
    if wrong:
        worst = max(wrong, key=lambda name: (math.isnan(wrong[name]), wrong[name]))
        raise WorkFailed(
            f"compiled gradients differ from eager ones for {len(wrong)} of {len(expected)} "
            f"parameters with torch {torch.__version__}, worst {worst}: off by "
            f"{wrong[worst]:.2g} of its norm\ntype: compute.compile=false"
        )
    if before is not None and after is not None:
        away = float((after - before).norm() / before.norm())
        if not away <= least:
            raise WorkFailed(
                "the compiled teacher's predictions differ from eager ones with torch "
                f"{torch.__version__}, off by {away:.2g} of the norm\n"
                "type: compute.compile=false"
            )
    logger.info("compiled gradients agree with eager ones for %d parameters", len(expected))


def gradients(model: DenoisingModel, batch: Batch) -> dict[str, Tensor]:
    """Return the gradient of the batch's squared error by parameter; `.grad` is not used."""
    names, parameters = zip(*model.trained_parameters().items(), strict=True)
    with seeded(batch.x_t.device, "compile check"):  # masks of dropout
        error = (_predict(model, batch) - batch.target).square().mean() * SCALE
        found = torch.autograd.grad(error, parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def perturbed(model: DenoisingModel, batch: Batch) -> dict[str, Tensor]:
    """Return the gradients where every number of the input is off by one rounding."""
    signs = (
        torch.randint(0, 2, batch.x_t.shape, generator=generator("roundings")).to(batch.x_t) * 2 - 1
    )
    return gradients(model, replace(batch, x_t=batch.x_t * (1 + 2 * batch.roundoff * signs)))


def _predict(model: nn.Module, batch: Batch) -> Tensor:
    """Call the network with torch in the same state as in training, else it compiles again."""
    precision: AbstractContextManager[object] = (
        torch.autocast(batch.x_t.device.type, batch.dtype, cache_enabled=False)
        if batch.dtype is not None
        else nullcontext()
    )
    with precision:
        prediction: Tensor = bind_condition(model, batch.condition)(batch.x_t, batch.t)
    return prediction.float()
