"""What our Trainer costs beside a bare loop: one process, the two loops taking turns, medians of their ratios.

Times are CPU seconds of the process (one thread): wall clock on a shared machine says more about the neighbours. Both
loops do the same work: same teacher, EMA, AdamW, clipping, timesteps and batches. `python benchmarks/train_step.py`
writes benchmarks/results/train_step.json; `--model cifar10` measures the 35.7M UNet of DDPM on CIFAR-10.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from deme.data import InMemoryImages, to_float
from deme.data.digits import load_digits
from deme.methods.deme import DeMe
from deme.models.unconditional import UnconditionalModel, build, load
from deme.paths import conf_dir
from deme.ranges import TimestepRange
from deme.timesteps import ProbabilisticSampler
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, fit
from deme.training.learning_rate import ConstantRate
from deme.training.module import DiffusionModule
from deme.weighting.constant import Constant

RANGE = TimestepRange(0, 250)
SPEC = yaml.safe_load((conf_dir() / "model" / "ddpm_cifar10.yaml").read_text())
CIFAR10 = {**SPEC["unet"], "dropout": 0.0}  # dropout would cost both loops the same


def sampler() -> ProbabilisticSampler:
    return ProbabilisticSampler(RANGE, 1000, 0.3)


def optimizer(parameters) -> torch.optim.AdamW:  # type: ignore[no-untyped-def]
    return torch.optim.AdamW(parameters, lr=5e-4, betas=(0.95, 0.999), weight_decay=1e-6)


def ours(
    make: Callable[[], UnconditionalModel], images: InMemoryImages, batch_size: int, num_steps: int, folder: Path
) -> float:
    """CPU seconds that `fit` takes for `num_steps`, its logging, progress and set-up included; a checkpoint is not."""
    method = DeMe(Constant(), sampler())
    method.prepare(make, "cpu")
    module = DiffusionModule(make(), method, optimizer, ConstantRate(num_steps), warmup_ema, 0, False, log_every=50)
    loop = Loop(num_steps, batch_size, 0, accelerator="cpu", checkpoint_every=10**9)
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        fit(module, images, loop, folder, "benchmark")
    return time.process_time() - began


def bare(
    make: Callable[[], UnconditionalModel], images: InMemoryImages, batch_size: int, num_steps: int, _: Path
) -> float:
    """CPU seconds of a loop written by hand."""
    model, teacher = make().train(), make().eval().requires_grad_(False)
    ema = warmup_ema(model.parameters())
    steps, draw, timesteps = optimizer(model.parameters()), torch.Generator().manual_seed(0), sampler()
    alpha_bar = model.schedule.alpha_bar.float()
    began = time.process_time()
    for _step in range(num_steps):
        x0 = to_float(images.pixels[torch.randint(len(images), (batch_size,), generator=draw)])
        t, eps = timesteps(batch_size, draw), torch.randn(x0.shape, generator=draw)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
        prediction = model(x_t, t)
        with torch.no_grad():
            answer = teacher(x_t, t)
        loss = (prediction - eps).square().mean() + (prediction - answer).square().mean()
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        ema.step(model.parameters())
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.model == "digits":
        images = load_digits().train
        num_steps, batch_size = arguments.steps or 100, arguments.batch_size or 128

        def make() -> UnconditionalModel:
            return load("asset:digits_base")
    else:
        images = InMemoryImages(
            torch.randint(0, 256, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
        )
        num_steps, batch_size = arguments.steps or 3, arguments.batch_size or 2

        def make() -> UnconditionalModel:
            return build(CIFAR10, {}, 0)

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats + 1):
            order = [ours, bare] if repeat % 2 else [bare, ours]
            seconds = {f.__name__: f(make, images, batch_size, num_steps, Path(folder, str(repeat))) for f in order}
            if repeat:  # the first pair warms up
                pairs.append(seconds)
                print(
                    f"ours {seconds['ours'] / num_steps * 1e3:.2f} ms a step, bare {seconds['bare'] / num_steps * 1e3:.2f}",
                    flush=True,
                )
    ratios = sorted(pair["ours"] / pair["bare"] for pair in pairs)
    result = {
        "model": arguments.model, "batch_size": batch_size, "steps": num_steps, "repeats": len(ratios),
        "ratio_median": round(statistics.median(ratios), 4), "ratio_min": round(ratios[0], 4), "ratio_max": round(ratios[-1], 4),
        "ours_ms": round(statistics.median(p["ours"] for p in pairs) / num_steps * 1e3, 2),
        "bare_ms": round(statistics.median(p["bare"] for p in pairs) / num_steps * 1e3, 2),
        "torch": torch.__version__, "threads": 1, "machine": platform.machine(),
    }  # fmt: skip
    print(json.dumps(result))
    place = Path(__file__).parent / "results" / "train_step.json"
    results = json.loads(place.read_text()) if place.exists() else {}
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({**results, arguments.model: result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
