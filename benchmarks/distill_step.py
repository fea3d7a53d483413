"""A step of distillation, compared with a DeMe step: both pass one student and one frozen network.

The two take turns in one process, with the same student, EMA, AdamW, clipping and batches; reported
are medians of the ratios of their times. Four experts in memory answer for four batches at once,
each in batches of about the batch size (`lookahead: null`), and, for comparison, for one batch
(`lookahead_1`). On a CPU times are CPU seconds of the process (one thread); on a GPU (`--device
cuda`) they are seconds, in bf16-mixed, compiled, channels last.

`python benchmarks/distill_step.py` writes results/distill_step.json (distill_step_cuda.json);
`--model compact` measures the compact UNet of CIFAR-10.
"""

import argparse
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from record import record
from train_step import Setting, ours

from deme.data import InMemoryImages
from deme.data.digits import load_digits
from deme.diffusion import RangeSampler, TimestepRange, uniform
from deme.methods import Method
from deme.methods.deme import DeMe
from deme.methods.distill import Distill
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import load_pretrained
from deme.runs import compose_stage

RANGES = uniform(4, 1000)
SAMPLER = RangeSampler(TimestepRange(0, 1000), 1000)
COMPACT = {**compose_stage("train", ["model=ddpm_compact"])["model"]["unet"], "dropout": 0.0}


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
        lambda: build_unconditional(COMPACT, {}, 0),
        batch_size or (128 if device == "cuda" else 16),
        device,
    )


def save_experts(setting: Setting, folder: Path) -> list[Path]:
    model = setting.make()
    for index in range(len(RANGES)):
        model.save(folder / f"expert{index}", model.state_dict(), {})
    return [folder / f"expert{index}" for index in range(len(RANGES))]


def seconds(setting: Setting, make: Callable[[], Method], num_steps: int, folder: Path) -> float:
    """Seconds of a training; on a GPU two windows of batches are compiled and trained before."""
    fast = setting.device == "cuda"
    precision = "bf16-mixed" if fast else "32-true"
    return ours(setting, num_steps, folder, precision, fast, make, warm_up=2 * len(RANGES))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["digits", "compact"], default="digits")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    if a.device == "cpu":
        torch.set_num_threads(1)
    setting = setting_of(a.model, a.batch_size, a.device)
    num_steps = a.steps or (80 if a.device == "cuda" or a.model == "digits" else 4)
    weights = torch.ones(1000)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        experts = save_experts(setting, Path(folder))
        distill = partial(Distill, weights, SAMPLER, RANGES, experts, setting.batch_size)
        calls: dict[str, Callable[[], Method]] = {
            "deme": lambda: DeMe(weights, SAMPLER),
            "distill": distill,
            "distill_lookahead_1": partial(distill, lookahead=1),
        }
        for repeat in range(a.repeats + 1):
            names = list(calls) if repeat % 2 else list(calls)[::-1]
            took = {
                name: seconds(setting, calls[name], num_steps, Path(folder, f"{name}{repeat}"))
                for name in names
            }
            if repeat:  # the first round warms up
                rounds.append(took)
                print(
                    ", ".join(f"{n} {took[n] / num_steps * 1e3:.2f} ms a step" for n in calls),
                    flush=True,
                )

    def compared(name: str) -> dict[str, float]:
        ratios = sorted(r[name] / r["deme"] for r in rounds)
        values = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
        return {key: round(value, 4) for key, value in values.items()}

    result = {
        "model": a.model,
        "batch_size": setting.batch_size,
        "experts": len(RANGES),
        "steps": num_steps,
        "repeats": len(rounds),
        "ratios": {f"{name} / deme": compared(name) for name in calls if name != "deme"},
        "ms": {
            n: round(statistics.median(r[n] for r in rounds) / num_steps * 1e3, 2) for n in calls
        },
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name()
        if a.device == "cuda"
        else "cpu, one thread, CPU seconds",
    }
    record("distill_step_cuda" if a.device == "cuda" else "distill_step", result, of=a.model)


if __name__ == "__main__":
    main()
