"""A training step of two processes on CPUs (gloo), compared with DistributedDataParallel alone.

Both do the same work: DeMe with a teacher, EMA, AdamW, clipping, half of a batch in each process.
The other loop is written by hand around torch's DistributedDataParallel with bucket views. They
take turns in the same processes; reported are medians of the ratios of their wall times without
the first step.

`python benchmarks/distributed_step.py` writes results/distributed_step.json.
"""

import argparse
import os
import platform
import socket
import statistics
import tempfile
import warnings
from pathlib import Path

import torch
from record import record
from torch import nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel
from train_step import Setting, bare, ours

from deme.data import InMemoryImages
from deme.models.families.unconditional import build_unconditional
from deme.runs import compose_stage
from deme.training.distributed import init_distributed

SIZE = 2


def parallel(model: nn.Module) -> nn.Module:
    """Wrap a model as a loop written by hand would."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def process(rank: int, port: int, folder: str, a: argparse.Namespace) -> None:
    """Measure in one of the processes; the first one records."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = init_distributed("cpu")
    unet = compose_stage("train", ["model=ddpm_compact"])["model"]["unet"]
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (256, 3, 32, 32), generator=draw).byte()
    setting = Setting(
        InMemoryImages(pixels), lambda: build_unconditional(unet, {}, 0), a.batch_size, "cpu"
    )

    def of(way: str, repeat: int) -> float:
        group.all_reduce_max(0)
        if way == "ours":
            place = Path(folder, str(rank), f"{way}{repeat}")
            return ours(setting, a.steps, place, group=group)
        half = a.batch_size // SIZE
        return bare(setting, a.steps, Path(folder), parallel=parallel, batch_size=half)

    rounds = []
    for repeat in range(a.repeats + 1):
        ways = ["ours", "bare"] if repeat % 2 else ["bare", "ours"]
        found = {way: of(way, repeat) / (a.steps - 1) for way in ways}
        if repeat:
            rounds.append(found)
            if rank == 0:
                print({way: round(seconds, 4) for way, seconds in found.items()}, flush=True)
    if rank == 0:
        ratios = sorted(each["ours"] / each["bare"] for each in rounds)
        record(
            "distributed_step",
            {
                "parameters": sum(p.numel() for p in setting.make().parameters()),
                "batch_size": a.batch_size,
                "processes": SIZE,
                "steps": a.steps,
                "repeats": len(rounds),
                "ratio": {
                    "median": round(statistics.median(ratios), 4),
                    "min": round(ratios[0], 4),
                    "max": round(ratios[-1], 4),
                },
                "ms": {
                    way: round(1e3 * statistics.median(each[way] for each in rounds), 1)
                    for way in ("ours", "bare")
                },
                "torch": torch.__version__,
                "machine": platform.machine(),
                "device": "cpu, one thread per process, wall time",
            },
        )


def main() -> None:
    """Start the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    a = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (port, folder, a), SIZE)


if __name__ == "__main__":
    main()
