"""torch.compile for training, believed only after its gradients were compared to eager ones.

Inductor was seen to give silently wrong training gradients (torch 2.13 on a CPU: the loss right, 74 of 104 gradients of a
small UNet wrong), so every run compares one batch before it trains.
"""

import contextlib
import logging
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from deme.data import EncodedDataset, Images, eval_sample
from deme.diffusion.conditioning import Condition, bind_condition, moved
from deme.diffusion.seeds import generator, seeded
from deme.models.denoiser import DenoisingModel
from deme.system.errors import WorkFailed

SCALE = 1024.0  # of the loss: a power of two changes no bit in bfloat16 or float32 and keeps float16 from underflow
NOISE = 6.0  # times what rounding alone changes; right compiled gradients differ by 0.4 to 2.6 times that
OPTIONS = {"fallback_random": True}  # of inductor: the masks of dropout that eager draws

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What a gradient is taken of: x_t [B, C, H, W], t [B], the network's target; and the precision to do it in."""

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
    """Return a noisy batch as training has them, of draws that training does not use."""
    draw = generator("compile check", seed)
    indices = torch.randint(len(images), (batch_size,), generator=draw).tolist()
    x0, condition = eval_sample(images, indices)
    x0 = x0.to(device)
    eps = torch.randn(x0.shape, generator=draw).to(device)
    t = torch.randint(model.schedule.num_timesteps, (batch_size,), generator=draw).to(device)
    x_t, target = (
        model.schedule.add_noise(x0, eps, t),
        model.schedule.target(model.prediction_type, x0, eps, t),
    )
    return Batch(x_t, t, target, dtype, moved(condition, device))


def compile_checked(model: DenoisingModel, batch: Batch, teacher: nn.Module | None = None) -> None:
    """Compile the model (and a teacher) in place, which keeps the names of its weights.

    Raises WorkFailed if a parameter's gradient differs from eager by more than allowed, or if compiling fails. Allowed is, per
    parameter, NOISE times what changes when the input is perturbed by one rounding (u: the unit roundoff of the run's precision;
    every later rounding then falls differently, as it does in a compiled network), plus sqrt(u) of the gradient's norm: 2e-4
    in float32, 4e-2 in bfloat16. Gradients that are nothing but rounding (an attention key's bias) may differ freely, a
    wrong one, which is off by about its norm, may not. Weights, gradients and random states stay as they were.
    """
    torch.compiler.reset()  # a process that trains many models would else run out of torch's limit and fall back to eager
    expected, noise = gradients(model, batch), perturbed(model, batch)
    found, answers = None, None
    with torch.no_grad():
        answer = _answer(teacher, batch) if teacher is not None else None
    try:
        model.compile(options=OPTIONS)
        found = gradients(model, batch)
        if teacher is not None:
            teacher.compile(options=OPTIONS)
            with torch.no_grad():
                answers = _answer(teacher, batch)
    except WorkFailed:
        raise
    except Exception as error:
        raise WorkFailed(
            f"torch.compile failed here with torch {torch.__version__}: {str(error).strip().splitlines()[0][:200]}\n"
            "type: compute.compile=false"
        ) from error
    least = batch.roundoff**0.5
    worst, wrong = ("", 0.0), 0
    for name, gradient in expected.items():
        away = float((found[name] - gradient).norm())
        allowed = NOISE * float((noise[name] - gradient).norm()) + least * float(gradient.norm())
        wrong += not away <= allowed
        share = away / max(float(gradient.norm()), 1e-30)
        if not away <= allowed and not share <= worst[1]:
            worst = (name, share)
    if wrong:
        raise WorkFailed(
            f"compiled gradients differ from eager ones for {wrong} of {len(expected)} parameters with torch {torch.__version__}, "
            f"worst {worst[0]}: off by {worst[1]:.2g} of its norm\n"
            "type: compute.compile=false"
        )
    if answer is not None and answers is not None:
        away = float((answers - answer).norm() / answer.norm())
        if not away <= least:
            raise WorkFailed(
                f"the compiled teacher answers otherwise than eager with torch {torch.__version__}, off by {away:.2g} of the norm\n"
                "type: compute.compile=false"
            )
    log.info("compiled gradients agree with eager ones for %d parameters", len(expected))


def gradients(model: DenoisingModel, batch: Batch) -> dict[str, Tensor]:
    """Return the gradient of the batch's squared error for every parameter; nothing is left in `.grad`."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    with seeded(batch.x_t.device, "compile check"):  # masks of dropout
        error = (_answer(model, batch) - batch.target).square().mean() * SCALE
        found = torch.autograd.grad(error, parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def perturbed(model: DenoisingModel, batch: Batch) -> dict[str, Tensor]:
    """Return the gradients where every number of the input is off by one rounding."""
    signs = (
        torch.randint(0, 2, batch.x_t.shape, generator=generator("roundings")).to(batch.x_t) * 2 - 1
    )
    return gradients(model, replace(batch, x_t=batch.x_t * (1 + 2 * batch.roundoff * signs)))


def _answer(model: nn.Module, batch: Batch) -> Tensor:
    """Call the network in the very state of torch that training calls it in: another one would be compiled again."""
    with contextlib.ExitStack() as stack:
        if batch.dtype is not None:
            stack.enter_context(
                torch.autocast(batch.x_t.device.type, batch.dtype, cache_enabled=False)
            )
        answer: Tensor = bind_condition(model, batch.condition)(batch.x_t, batch.t)
    return answer.float()
