"""A DeMe training step of ours, compared with a bare loop.

The loops take turns in one process; reported are medians of the ratios of their times. All loops do
the same work: same teacher, EMA, AdamW, clipping, timesteps and batches. On a CPU, times are CPU
seconds of the process (one thread), since wall-clock time on a shared machine depends on its other
users; ours in float32 (the cost of the Trainer) and, where it is asked for, in
`--precision bf16-mixed` are compared to the bare loop in eager float32. On a GPU (`--device cuda`,
seconds) ours is bf16-mixed, compiled, channels last, compared to bare loops in eager float32 and in
eager float16 autocast.

`python benchmarks/train_step.py` writes results/train_step.json (train_step_cuda.json);
`--model cifar10` measures the 35.7M UNet of DDPM on CIFAR-10.
"""

import argparse
import contextlib
import io
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from record import record
from torch import nn

from deme.builders import Compute
from deme.data import InMemoryImages
from deme.data.digits import load_digits
from deme.data.pixels import to_float
from deme.diffusion import TimestepRange
from deme.diffusion.timesteps import ProbabilisticSampler
from deme.methods import Method
from deme.methods.deme import DeMe
from deme.models.denoiser import DenoisingModel
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import load_pretrained
from deme.runs import compose_stage
from deme.training.distributed import ProcessGroup
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, fit
from deme.training.module import DiffusionModule

RANGE = TimestepRange(0, 250)
# dropout would cost both loops the same
CIFAR10 = {**compose_stage("train", ["model=ddpm_cifar10"])["model"]["unet"], "dropout": 0.0}


@dataclass(frozen=True)
class Setting:
    images: InMemoryImages
    make: Callable[[], DenoisingModel]
    batch_size: int
    device: str


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def wall(device: str) -> float:
    """Seconds that pass, which count where processes wait for each other."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sampler() -> ProbabilisticSampler:
    return ProbabilisticSampler(RANGE, 1000, 0.3)


def optimizer(parameters) -> torch.optim.AdamW:  # type: ignore[no-untyped-def]
    return torch.optim.AdamW(parameters, lr=5e-4, betas=(0.95, 0.999), weight_decay=1e-6)


def deme() -> Method:
    return DeMe(torch.ones(1000), sampler())


def ours(
    setting: Setting,
    num_steps: int,
    folder: Path,
    precision: str = "32-true",
    fast: bool = False,
    make: Callable[[], Method] = deme,
    warm_up: int = 3,
    group: ProcessGroup | None = None,
) -> float:
    """Seconds that `fit` takes for `num_steps` of the method that `make` returns.

    Logging, progress and set-up are included; checkpoint and compiling (`fast`, in `warm_up` steps
    before) are not. Of a `group` of processes, whose set-up includes messages between them, it is
    the wall time after the first step.
    """
    compute = Compute(
        "gpu" if setting.device == "cuda" else "cpu", precision, setting.device, fast, fast
    )
    method, model = make(), setting.make()
    method.prepare(setting.make, setting.device, compute.dtype)
    compute.prepare_for_training(model, setting.images, setting.batch_size, 0, method.teacher)
    began: list[float] = []
    now = clock if group is None else wall

    def rate(step: int) -> float:  # called after every step
        if step == 1 and group is not None:
            began[:] = [now(setting.device)]
        return 1.0

    module = DiffusionModule(model, method, optimizer, rate, warmup_ema, 0, 50, group)

    def train(steps: int, place: Path) -> None:
        loop = Loop(
            steps,
            setting.batch_size,
            0,
            precision=precision,
            accelerator=compute.accelerator,
            checkpoint_every=10**9,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            fit(module, setting.images, loop, place)

    if fast:
        train(warm_up, folder / "warm")
    began[:] = [now(setting.device)]
    train(num_steps, folder)
    return now(setting.device) - began[0]


def bare(
    setting: Setting,
    num_steps: int,
    _: Path,
    dtype: torch.dtype | None = None,
    parallel: Callable[[nn.Module], nn.Module] | None = None,
    batch_size: int | None = None,
) -> float:
    """Seconds of an eager loop written by hand.

    `parallel` wraps a model that is distributed; then the first step is not counted.
    """
    batch_size = batch_size or setting.batch_size
    model, teacher = (
        setting.make().to(setting.device).train(),
        setting.make().to(setting.device).eval().requires_grad_(False),
    )
    ema = warmup_ema(model.parameters())
    ema.to(setting.device)
    steps, draw, timesteps = (
        optimizer(model.parameters()),
        torch.Generator().manual_seed(0),
        sampler(),
    )
    scaler = torch.amp.GradScaler(setting.device, enabled=dtype == torch.float16)
    alpha_bar = model.schedule.alpha_squared.float().to(setting.device)
    now = clock if parallel is None else wall
    network = model if parallel is None else parallel(model)
    began = now(setting.device)
    for step in range(num_steps):
        if step == 1 and parallel is not None:
            began = now(setting.device)
        chosen = setting.images.pixels[
            torch.randint(len(setting.images), (batch_size,), generator=draw)
        ]
        x0 = to_float(chosen).to(setting.device)
        t, eps = timesteps(batch_size, draw), torch.randn(x0.shape, generator=draw)
        t, eps = t.to(setting.device), eps.to(setting.device)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
        with torch.autocast(setting.device, dtype or torch.bfloat16, enabled=dtype is not None):
            prediction = network(x_t, t)
            with torch.no_grad():
                answer = teacher(x_t, t)
        prediction, answer = prediction.float(), answer.float()
        loss = (prediction - eps).square().mean() + (prediction - answer).square().mean()
        steps.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(steps)
        scaler.update()
        ema.step(model.parameters())
    return now(setting.device) - began


def setting_of(name: str, batch_size: int | None, device: str) -> Setting:
    if name == "digits":
        return Setting(
            load_digits().train,
            lambda: load_pretrained("asset:digits_base"),
            batch_size or 128,
            device,
        )
    pixels = torch.randint(
        0, 256, (256, 3, 32, 32), generator=torch.Generator().manual_seed(0)
    ).byte()
    return Setting(
        InMemoryImages(pixels),
        lambda: build_unconditional(CIFAR10, {}, 0),
        batch_size or (128 if device == "cuda" else 8),
        device,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["digits", "cifar10"], default="digits")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--precision",
        choices=["32-true", "bf16-mixed"],
        default="32-true",
        help="on a CPU: measured, too",
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    setting = setting_of(a.model, a.batch_size, a.device)
    num_steps = a.steps or (50 if a.device == "cuda" else 100 if a.model == "digits" else 2)
    calls: dict[str, Callable[[Setting, int, Path], float]] = {"bare": bare}
    if a.device == "cuda":
        calls["bare_fp16"] = partial(bare, dtype=torch.float16)
        calls["ours_bf16_compile"] = partial(ours, precision="bf16-mixed", fast=True)
    else:
        torch.set_num_threads(1)
        calls["ours"] = ours
        if a.precision == "bf16-mixed":
            calls["ours_bf16"] = partial(ours, precision="bf16-mixed")

    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(a.repeats + 1):
            names = list(calls) if repeat % 2 else list(calls)[::-1]
            seconds = {
                name: calls[name](setting, num_steps, Path(folder, f"{name}{repeat}"))
                for name in names
            }
            if repeat:  # the first round warms up
                rounds.append(seconds)
                print(
                    ", ".join(f"{n} {seconds[n] / num_steps * 1e3:.2f} ms a step" for n in calls),
                    flush=True,
                )

    def compared(name: str, base: str) -> dict[str, float]:
        ratios = sorted(r[name] / r[base] for r in rounds)
        values = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
        return {key: round(value, 4) for key, value in values.items()}

    bases = [name for name in calls if name.startswith("bare")]
    result = {
        "model": a.model,
        "batch_size": setting.batch_size,
        "steps": num_steps,
        "repeats": len(rounds),
        "ratios": {f"{n} / {b}": compared(n, b) for n in calls if n not in bases for b in bases},
        "ms": {
            n: round(statistics.median(r[n] for r in rounds) / num_steps * 1e3, 2) for n in calls
        },
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name()
        if a.device == "cuda"
        else "cpu, one thread, CPU seconds",
        "avx512_bf16": a.device == "cpu" and "avx512_bf16" in Path("/proc/cpuinfo").read_text(),
    }
    record("train_step_cuda" if a.device == "cuda" else "train_step", result, of=a.model)


if __name__ == "__main__":
    main()
