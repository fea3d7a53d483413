"""What a step that balances k tasks costs, compared with a plain step of the same batch.

All variants take turns in one process; reported are medians of the ratios of their times. Times are
CPU seconds of the process (one thread). A plain step is one forward and backward pass of the whole
batch with constant weights and an AdamW step; the others put one balancing method in its place. For
NashMTL with new weights every R steps, the time is (refresh + (R - 1) between) / R, from a step
that refreshes and one that does not. Beside the methods stand two bare building blocks: k passes
over B / k images each, and k passes over B. The plain step is measured twice: the ratios are to the
faster of the two, and the ratio of the two shows the noise of the measurement.

`python benchmarks/balancing.py` writes benchmarks/results/balancing.json; `--model cifar10`
measures the 35.7M UNet of DDPM on CIFAR-10.
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from record import record
from torch import Tensor
from train_step import CIFAR10

from deme.diffusion import ShardedRandom, StratifiedSampler, TimestepRange, generator, uniform
from deme.methods.ant import Ant
from deme.methods.balancing import Balancing
from deme.methods.balancing.equal import Equal
from deme.methods.balancing.nash_mtl import NashMTL
from deme.methods.balancing.pcgrad import PCGrad
from deme.methods.balancing.uncertainty import Uncertainty
from deme.methods.finetune import Finetune
from deme.models.denoiser import DenoisingModel
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import load_pretrained

Step = Callable[[], None]
EVERYTHING = TimestepRange(0, 1000)


def methods(k: int, batch_size: int) -> dict[str, Finetune]:
    ranges = uniform(k, 1000)
    weights, timesteps = torch.ones(1000), StratifiedSampler(EVERYTHING, ranges)

    def ant(balancing: Balancing) -> Ant:
        return Ant(weights, timesteps, ranges, balancing, batch_size)

    return {
        "plain": Finetune(weights, timesteps),
        "equal": ant(Equal(k)),
        "uncertainty": ant(Uncertainty(k)),
        "plain_again": Finetune(weights, timesteps),
        "nash_between": ant(NashMTL(k, 10**9)),
        "nash_refresh": ant(NashMTL(k, 1)),
        "pcgrad": ant(PCGrad(k)),
    }


def step_of(method: Finetune, model: DenoisingModel, x0: Tensor) -> Step:
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters())}, *method.param_groups()], lr=1e-6
    )
    count = 0

    def step() -> None:
        nonlocal count
        rows = ShardedRandom(generator("benchmark", count), len(x0), 0, len(x0))
        loss = torch.stack(list(method.losses(model, x0, rows).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        count += 1

    return step


def passes_of(model: DenoisingModel, x0: Tensor, k: int, whole: bool) -> Step:
    """k forward and backward passes and one AdamW step.

    Each pass is over its slice of the batch, or over the whole of it.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    t = torch.arange(len(x0)) * 1000 // len(x0)

    def step() -> None:
        optimizer.zero_grad()
        for rows in torch.arange(len(x0)).tensor_split(k):
            used = slice(None) if whole else rows
            errors = (model(x0[used], t[used]) - x0[used]).square().flatten(1).mean(1)
            (errors[rows] if whole else errors).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def seconds(step: Step, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--refresh", type=int, default=25)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    small = arguments.model == "digits"
    batch_size = arguments.batch_size or (128 if small else 10)
    repeats = arguments.repeats or (15 if small else 5)
    model = (
        load_pretrained("asset:digits_base") if small else build_unconditional(CIFAR10, {}, 0)
    ).train()
    x0 = torch.randn(batch_size, *model.image_shape, generator=torch.Generator().manual_seed(0))
    k, refresh = arguments.tasks, arguments.refresh
    steps = {name: step_of(method, model, x0) for name, method in methods(k, batch_size).items()}
    steps["slices"] = passes_of(model, x0, k, whole=False)
    steps["full"] = passes_of(model, x0, k, whole=True)
    times, rounds = 4 if small else 1, []
    for repeat in range(repeats + 1):
        names = list(steps) if repeat % 2 else list(reversed(steps))
        taken = {name: seconds(steps[name], times) for name in names}
        taken["nash_mtl"] = (
            taken["nash_refresh"] + (refresh - 1) * taken["nash_between"]
        ) / refresh
        if repeat:  # the first round warms up, and has NashMTL's first weights
            rounds.append(taken)
            print({name: round(value * 1e3, 1) for name, value in taken.items()}, flush=True)
    for taken in rounds:
        taken["base"] = min(taken["plain"], taken["plain_again"])
    ratios = {
        name: sorted(r[name] / r["base"] for r in rounds) for name in rounds[0] if name != "base"
    }
    result = {
        "model": arguments.model,
        "tasks": k,
        "batch_size": batch_size,
        "refresh_every": refresh,
        "repeats": repeats,
        "plain_ms": round(statistics.median(r["base"] for r in rounds) * 1e3, 1),
        "ratios": {
            n: {
                "median": round(statistics.median(v), 3),
                "min": round(v[0], 3),
                "max": round(v[-1], 3),
            }
            for n, v in ratios.items()
        },
        "torch": torch.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("balancing", result, of=arguments.model)


if __name__ == "__main__":
    main()
