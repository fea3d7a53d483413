"""Averaging 20 snapshots of the 113.7M UNet from disk to disk, against reading them.

Random weights in 20 files of 455 MB, in the page cache where the machine has that much memory.
`mean`: deme.merging.stream.merge_folder with equal weights, as `deme average` calls it, with the
checks of its plan and of every number; it writes a file of 455 MB and ends with an fsync.
`power`: the same with the weights of a power-function average, of both signs. `load`: reads the
tensors of one file after another, and checks that they are finite. `read`: reads the bytes of the
20 files into one buffer of 1 MiB, and no more. Neither writes a file. The ways take turns, each in
a process of its own, timed once all is imported: CPU seconds, user and system (one thread), and
wall time, which includes waiting for the disk. Peaks of resident memory are above what is resident
after the imports.

`python benchmarks/average_disk.py` writes benchmarks/results/average_disk.json; it needs 10 GB in
the folder for temporary files.
"""

import math
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from merge_disk import FILE, MIB, random_tensors
from record import record
from turns import arguments, measure, peaks, summary, take_turns

from deme.builders import open_average
from deme.merging.combine import Merge
from deme.merging.methods.linear import linear
from deme.merging.power_profiles import TRACKED, Profile, reconstruct
from deme.merging.stream import merge_folder
from deme.runs import compose_stage
from deme.system import write_json
from deme.system.tensors import TensorFile, write_stream

SNAPSHOTS = 20
MEMORY_FILLED = 500_000_000  # bytes
RATIOS = [(way, other) for other in ("load", "read") for way in ("mean", "power")]
TARGETS = {f"{way}_over_{other}": 1.3 for way, other in RATIOS}


def make_snapshots(root: Path) -> None:
    """Write random weights with the UNet's names and shapes."""
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel(**compose_stage("train", ["model=ddpm_lsun256"])["model"]["unet"])
    specs = {n: (tuple(tensor.shape), tensor.dtype) for n, tensor in unet.state_dict().items()}
    for index in range(SNAPSHOTS):
        write_stream(root / f"{index:08}" / FILE, specs, random_tensors(specs, index))
        write_json(root / f"{index:08}" / "unet" / "config.json", {"_class_name": "UNet2DModel"})


def average(root: Path, out: Path, weights: list[float]) -> None:
    plan = open_average(sorted(root.glob("0*")))
    merge_folder(plan, Merge(linear, len(weights), weights), out)


def mean(root: Path) -> None:
    average(root, root / "out", [1 / SNAPSHOTS] * SNAPSHOTS)


def power(root: Path) -> None:
    """As many stored averages: of ten snapshots, two each."""
    stored = [Profile(length, step) for step in range(1, SNAPSHOTS // 2 + 1) for length in TRACKED]
    average(root, root / "out", list(reconstruct(stored, Profile(0.15, SNAPSHOTS // 2)).weights))


def read(root: Path) -> None:
    piece = bytearray(MIB)
    for place in sorted(root.glob("0*")):
        with open(place / FILE, "rb") as file:
            while file.readinto(piece):
                pass


def load(root: Path) -> None:
    for place in sorted(root.glob("0*")):
        file = TensorFile(place / FILE)
        for name in file.specs:
            file.read(name)


WAYS: dict[str, Callable[[Path], None]] = {
    "mean": mean,
    "power": power,
    "load": load,
    "read": read,
}


def main() -> None:
    a = arguments(__doc__, list(WAYS))
    if a.way:
        (a.root / "out" / FILE).unlink(missing_ok=True)
        measure(partial(WAYS[a.way], a.root), MEMORY_FILLED, a.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_snapshots(root)
        file = TensorFile(root / f"{0:08}" / FILE)
        rounds = take_turns(list(WAYS), root, a.repeats)
        memory = peaks(list(WAYS), root)
    largest = max(math.prod(shape) * dtype.itemsize for shape, dtype in file.specs.values())
    result = {
        "model": "113.7M UNet",
        "snapshots": SNAPSHOTS,
        "repeats": len(rounds),
        **summary(rounds, RATIOS),
        "peak_mb_above_imports": memory,
        "largest_tensor_mb": round(largest / 1e6, 1),
        "targets": TARGETS,
        "torch": torch.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("average_disk", result)


if __name__ == "__main__":
    main()
