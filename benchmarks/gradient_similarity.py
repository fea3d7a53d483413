"""Memory and time of the gradients behind figure=gradient_similarity, of the 35.7M UNet.

Each number of bins is measured in a process of its own, with few images per bin: CPU seconds and
the peak of resident memory. Memory depends on how many images are computed at once, so two bins are
measured with a larger batch, too.

`python benchmarks/gradient_similarity.py` writes results/gradient_similarity.json (10 minutes).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from memory import peak_mb
from record import record

from deme.analysis.gradient_similarity import gradient_similarity
from deme.analysis.parts import PartFiles
from deme.data import InMemoryImages
from deme.runs import compose_stage, instantiate

NUM_GROUPS = 2  # of each half of a bin's images
BINS, AT_ONCE = (5, 10, 25), 4
FEW_BINS, MORE_AT_ONCE = 2, 16


def measure(num_bins: int, batch_size: int) -> dict[str, float]:
    """Measure in this process: megabytes at the peak, and CPU seconds."""
    model = instantiate(compose_stage("train", ["model=ddpm_cifar10"])["model"]).eval()
    pixels = torch.randint(0, 256, (64, *model.image_shape), dtype=torch.uint8)
    num_images = 2 * NUM_GROUPS * batch_size
    study = gradient_similarity(
        lambda: model,
        lambda *_: InMemoryImages(pixels),
        num_bins=num_bins,
        num_images=num_images,
        num_groups=NUM_GROUPS,
        num_ranges=min(4, num_bins),
        batch_size=batch_size,
    )
    loaded, began = peak_mb(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        study.measure(PartFiles(Path(folder, "figure.png"), "benchmark"))
    seconds = time.process_time() - began
    return {
        "bins": num_bins,
        "images_per_bin": num_images,
        "batch_size": batch_size,
        "loaded_mb": round(loaded, 1),
        "peak_mb": round(peak_mb(), 1),
        "seconds": round(seconds, 2),
        "seconds_per_bin": round(seconds / num_bins, 3),
    }


def measured_alone(num_bins: int, batch_size: int) -> dict[str, float]:
    """Measure in a process of its own, with one thread."""
    words = [sys.executable, __file__, "--bins", str(num_bins), "--batch-size", str(batch_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bins", type=int)
    parser.add_argument("--batch-size", type=int, default=AT_ONCE)
    arguments = parser.parse_args()
    if arguments.bins is not None:
        print(json.dumps(measure(arguments.bins, arguments.batch_size)))
        return
    by_bins = [measured_alone(num_bins, AT_ONCE) for num_bins in BINS]
    larger_batch = measured_alone(FEW_BINS, MORE_AT_ONCE)
    record(
        "gradient_similarity",
        {
            "model": "cifar10",
            "by_bins": by_bins,
            "larger_batch": larger_batch,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": "cpu, one thread, CPU seconds",
        },
    )


if __name__ == "__main__":
    main()
