"""Memory of streaming moments for 10,000 and 50,000 images with 2,048 features.

Every measurement is the peak of a process of its own (median of 5). Baseline: the same with all
features kept, as clean-fid and pytorch-fid do. `python benchmarks/moments.py` writes
results/moments.json.
"""

import json
import platform
import statistics
import subprocess
import sys

import torch
from memory import peak_mb
from record import record

from deme.metrics import Statistics

D, BATCH, REPEATS = 2048, 250, 5


def peak(kind: str, count: int) -> float:
    torch.set_num_threads(1)
    before = peak_mb()
    draw = torch.Generator().manual_seed(0)
    moments, kept = Statistics(), []
    for _ in range(count // BATCH):
        features = torch.randn(BATCH, D, generator=draw)
        if kind == "kept":
            kept.append(features)
        else:
            moments.update(features)
    if kept:
        moments.update(torch.cat(kept))
    assert moments.covariance.shape == (D, D)
    return peak_mb() - before


def main() -> None:
    if len(sys.argv) == 3:
        print(peak(sys.argv[1], int(sys.argv[2])))
        return
    result: dict[str, object] = {
        "d": D,
        "batch": BATCH,
        "repeats": REPEATS,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for kind in ("streaming", "kept"):
        few, many = (
            statistics.median(
                float(subprocess.check_output([sys.executable, __file__, kind, str(n)]))
                for _ in range(REPEATS)
            )
            for n in (10_000, 50_000)
        )
        result[kind] = {"mb_10k": round(few), "mb_50k": round(many), "ratio": round(many / few, 3)}
        print(json.dumps({kind: result[kind]}), flush=True)
    record("moments", result)


if __name__ == "__main__":
    main()
