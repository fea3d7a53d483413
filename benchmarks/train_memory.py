"""Memory of `deme train -m method=deme`, whose process trains four experts.

Four experts in one process are compared with one expert, and a run's memory is given in model
sizes. Every measurement is a process of its own that trains a UNet of 47M parameters on 8 x 8
images for two steps (so small that activations hardly count); its peak is compared to that of the
same process with a tiny UNet. What must be held: weights, gradients, Adam's two moments, the
average, the teacher: 6 model sizes.

`python benchmarks/train_memory.py` writes results/train_memory.json.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from memory import peak_mb
from record import record

from deme.cli.app import main as deme
from deme.models.families.unconditional import build_unconditional

LARGE, TINY = [128, 384, 512], [8, 8, 8]
KINDS = {
    "tiny": (TINY, "0", []),
    "one": (LARGE, "0", []),
    "four": (LARGE, "0,1,2,3", []),
    "one_bf16": (LARGE, "0", ["compute.precision=bf16-mixed"]),
    "four_bf16": (LARGE, "0,1,2,3", ["compute.precision=bf16-mixed"]),
}


def unet(channels: list[int]) -> dict[str, object]:
    return {
        "block_out_channels": channels,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D"] * 3,
        "up_block_types": ["UpBlock2D"] * 3,
    }


def peak(kind: str) -> float:
    """Megabytes at the peak of this process, which runs the command in the current folder."""
    channels, experts, more = KINDS[kind]
    words = [
        f"model.unet.{name}={json.dumps(value).replace(' ', '')}"
        for name, value in unet(channels).items()
    ]
    base = [
        "train",
        "-m",
        "method=deme",
        f"expert={experts}",
        "model=digits_unet",
        "batch_size=2",
        "num_steps=2",
    ]
    progress = [
        "progress.preview.num_images=1",
        "progress.preview.num_inference_steps=2",
        "progress.checkpoint_every=1",
    ]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = deme([*base, *words, *progress, *more])
    assert code == 0, out.getvalue()
    return peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", choices=list(KINDS))
    a = parser.parse_args()
    if a.peak:
        print(peak(a.peak))
        return
    parameters = sum(
        p.numel()
        for p in build_unconditional(
            {
                "sample_size": 8,
                "in_channels": 1,
                "out_channels": 1,
                "add_attention": False,
                **unet(LARGE),
            },
            {},
        ).parameters()
    )
    size = parameters * 4 / 2**20
    peaks: dict[str, float] = {}
    for kind in KINDS:
        found = []
        for _ in range(a.repeats):
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, str(Path(__file__).resolve()), "--peak", kind]
                text = subprocess.check_output(
                    words, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
            found.append(float(text))
        peaks[kind] = statistics.median(found)
        print(
            f"{kind}: {peaks[kind]:.0f} MB, {(peaks[kind] - peaks['tiny']) / size:.2f} model sizes",
            flush=True,
        )
    result = {
        "parameters": parameters,
        "model_mb": round(size),
        "repeats": a.repeats,
        "must_hold_model_sizes": 6,
        "peak_mb": {kind: round(value) for kind, value in peaks.items()},
        "model_sizes": {
            kind: round((value - peaks["tiny"]) / size, 2)
            for kind, value in peaks.items()
            if kind != "tiny"
        },
        "four_over_one": round((peaks["four"] - peaks["tiny"]) / (peaks["one"] - peaks["tiny"]), 3),
        "four_over_one_bf16": round(
            (peaks["four_bf16"] - peaks["tiny"]) / (peaks["one_bf16"] - peaks["tiny"]), 3
        ),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    record("train_memory", result)


if __name__ == "__main__":
    main()
