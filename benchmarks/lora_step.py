"""A LoRA training step of DeMe on a transformer of 100M parameters, compared with a bare loop.

The network is diffusers' DiT of 12 blocks, 768 wide, with random weights, on images of 3 x 16 x 16
(64 tokens); flow matching, classes, a LoRA of rank 16 for the attention and feed-forward layers,
the consistency loss to the base, AdamW, clipping and a moving average. The bare loop is written
with peft and does the same work; its teacher, too, is the network without the LoRA. The loops take
turns in one process; times are CPU seconds (one thread). Memory is the peak of a process of its
own above that of the same process with a tiny network; `over_base` leaves out the base's weights,
of which only one copy may be there: what is left is the LoRA, its gradients, moments and average,
and the activations.

`python benchmarks/lora_step.py` writes results/lora_step.json.
"""

import argparse
import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import peft
import torch
from diffusers import DiTTransformer2DModel
from memory import peak_mb
from record import record

from deme.data import CaptionedImages, InMemoryImages
from deme.data.conditioned import ConditionedPixels
from deme.diffusion import TimestepRange
from deme.diffusion.timesteps import ProbabilisticSampler
from deme.methods.deme import DeMe
from deme.models.adapter import BaseOfAdapter, LoRA
from deme.models.families.dit import DiTModel, build_dit
from deme.training.ema import warmup_ema
from deme.training.fit import Loop, fit
from deme.training.module import DiffusionModule

SIDE, BATCH, RANK, CLASSES = 16, 4, 16, 10
SIZES = {"100M": (12, 12), "tiny": (1, 1)}  # blocks, heads of 64 channels
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
TARGETS = {"ours_over_bare": 1.02, "memory_over_base_ours_over_bare": 1.1}


def shape(size: str) -> dict[str, int]:
    blocks, heads = SIZES[size]
    return {
        "sample_size": SIDE,
        "in_channels": 3,
        "patch_size": 2,
        "num_layers": blocks,
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "num_embeds_ada_norm": CLASSES,
    }


def pixels() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (256, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)


def labels() -> list[int]:
    return [index % CLASSES for index in range(256)]


def timesteps() -> ProbabilisticSampler:
    return ProbabilisticSampler(TimestepRange(0, 250), 1000, 0.3)


def optimizer(parameters) -> torch.optim.AdamW:  # type: ignore[no-untyped-def]
    return torch.optim.AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)


def ours(size: str, num_steps: int, folder: Path) -> float:
    """CPU seconds of `fit` for `num_steps`; making the model is not counted."""
    model = build_dit(shape(size), FLOW)
    model.add_adapter(LoRA(RANK))
    method = DeMe(torch.ones(1000), timesteps())
    method.prepare(lambda: BaseOfAdapter(model), "cpu", None)
    images = CaptionedImages(InMemoryImages(pixels()), list(map(str, labels())))
    data = ConditionedPixels(images, model.condition, 0.1)
    module = DiffusionModule(
        model, method, optimizer, lambda _: 1.0, warmup_ema, 0, 50, None, data.training_sample
    )
    loop = Loop(num_steps, BATCH, 0, accelerator="cpu", checkpoint_every=10**9)
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        fit(module, data, loop, folder)
    return time.process_time() - began


def bare(size: str, num_steps: int, _: Path) -> float:
    """CPU seconds of a loop written by hand."""
    network = DiTTransformer2DModel(**shape(size)).train()
    network.requires_grad_(False)
    lora = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(DiTModel.adapter_targets))
    peft.inject_adapter_in_model(lora, network)
    layers = [part for part in network.modules() if isinstance(part, peft.tuners.lora.LoraLayer)]
    trained = [each for each in network.parameters() if each.requires_grad]
    ema, steps = warmup_ema(trained), optimizer(trained)
    images, classes, draw = pixels(), torch.tensor(labels()), torch.Generator().manual_seed(0)
    sampler = timesteps()
    began = time.process_time()
    for _step in range(num_steps):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        x0 = images[rows].float() / 127.5 - 1
        dropped = torch.rand(BATCH, generator=draw) < 0.1
        given = torch.where(dropped, CLASSES, classes[rows])
        t, eps = sampler(BATCH, draw), torch.randn(x0.shape, generator=draw)
        s = ((t + 1) / 1000).view(-1, 1, 1, 1)
        x_t = (1 - s) * x0 + s * eps
        timestep_input = 1000 * s.flatten()
        prediction = network(x_t, timestep=timestep_input, class_labels=given).sample
        with torch.no_grad():
            for layer in layers:
                layer._disable_adapters = True
            answer = network(x_t, timestep=timestep_input, class_labels=given).sample
            for layer in layers:
                layer._disable_adapters = False
        target = eps - x0
        loss = (prediction - target).square().mean() + (prediction - answer).square().mean()
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        steps.step()
        ema.step(trained)
    return time.process_time() - began


WAYS = {"bare": bare, "ours": ours}


def peak(way: str, size: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        WAYS[way](size, 2, Path(folder))
    return peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak", nargs=2)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if a.peak:
        print(peak(*a.peak))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(a.repeats + 1):
            names = list(WAYS) if repeat % 2 else list(WAYS)[::-1]
            found = {n: WAYS[n]("100M", a.steps, Path(folder, f"{n}{repeat}")) for n in names}
            if repeat:  # the first round warms up
                rounds.append(found)
                print({n: f"{s / a.steps:.3f} s a step" for n, s in found.items()}, flush=True)
    ratios = sorted(r["ours"] / r["bare"] for r in rounds)
    base = DiTTransformer2DModel(**shape("100M"))
    weights = sum(each.numel() for each in base.parameters())
    peaks: dict[str, float] = {}
    for way in WAYS:
        command = [sys.executable, str(Path(__file__).resolve()), "--peak", way]
        megabytes = {
            size: statistics.median(
                float(
                    subprocess.check_output(
                        [*command, size], env={**os.environ, "OMP_NUM_THREADS": "1"}
                    )
                )
                for _ in range(3)
            )
            for size in SIZES
        }
        peaks[way] = megabytes["100M"] - megabytes["tiny"]
    base_mb = weights * 4 / 2**20
    over_base = {way: value - base_mb for way, value in peaks.items()}
    result = {
        "parameters": weights,
        "batch_size": BATCH,
        "steps": a.steps,
        "repeats": len(rounds),
        "ours_over_bare": {
            "median": round(statistics.median(ratios), 4),
            "min": round(ratios[0], 4),
            "max": round(ratios[-1], 4),
        },
        "seconds_a_step": {
            way: round(statistics.median(r[way] for r in rounds) / a.steps, 3) for way in WAYS
        },
        "base_mb": round(base_mb),
        "peak_mb": {way: round(value) for way, value in peaks.items()},
        "over_base_mb": {way: round(value) for way, value in over_base.items()},
        "memory_over_base_ours_over_bare": round(over_base["ours"] / over_base["bare"], 3),
        "targets": TARGETS,
        "torch": torch.__version__,
        "peft": peft.__version__,
        "device": "cpu, one thread, CPU seconds",
        "machine": platform.machine(),
    }
    record("lora_step", result)


if __name__ == "__main__":
    main()
