"""Sampling: compared with diffusers' DDIMPipeline, in bfloat16, and with unmerged experts.

The 35.7M UNet of DDPM on CIFAR-10 with random weights, DDIM, the same batches; all variants take
turns in one process. bfloat16 is compared with float32, unmerged experts with one model. Times are
CPU seconds of the process (one thread) on a CPU, seconds on a GPU (`--device cuda`, which also
measures bfloat16 + torch.compile). The pipeline and ours start from the same noise, and must give
the same samples bit for bit. The experts are four copies on disk, one in memory at a time; memory
is the growth of the process while it samples, less what the same call takes with one model,
measured in processes of their own.

`python benchmarks/sampling.py` writes results/sampling_<device>.json.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from memory import peak_mb
from record import record
from train_step import CIFAR10

from deme.builders import Compute
from deme.data.pixels import to_uint8
from deme.diffusion import image_generator, uniform
from deme.models.denoiser import DenoisingModel
from deme.models.families.unconditional import build_unconditional
from deme.models.loading import load_pretrained
from deme.models.swapped import SwappedExperts
from deme.sampling.ddim import DDIM
from deme.sampling.generate import generate
from deme.sampling.routed import RoutedModel

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
EXPERTS = 4


def sample(
    network: Network, model: DenoisingModel, steps: int, count: int, batch: int, device: str
) -> torch.Tensor:
    shape = model.image_shape
    return torch.cat(
        list(
            generate(
                network, model.scheduler_config, shape, DDIM(steps), 0, range(count), batch, device
            )
        )
    )


def compute(device: str, precision: str = "32-true", compiled: bool = False) -> Compute:
    return Compute("gpu" if device == "cuda" else "cpu", precision, device, compiled)


def pipeline_of(model: DenoisingModel, steps: int, batch: int) -> Callable[[], torch.Tensor]:
    pipeline = DDIMPipeline(model.unet, DDIMScheduler.from_config(model.scheduler_config))
    pipeline.set_progress_bar_config(disable=True)
    shape = (batch, *model.image_shape)

    def call() -> torch.Tensor:
        generators = [
            image_generator(0, i) for i in range(batch)
        ]  # the pipeline draws an image's noise from its own, too
        images = pipeline(
            batch_size=batch, generator=generators, num_inference_steps=steps, output_type="np"
        ).images
        return to_uint8(torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1).reshape(shape)

    return call


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def turns(
    calls: dict[str, Callable[[], torch.Tensor]], base: str, repeats: int, device: str
) -> dict[str, object]:
    """Seconds of every call over those of `base`, in turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        names = list(calls) if repeat % 2 else list(calls)[::-1]
        for name in names:
            began = clock(device)
            calls[name]()
            if repeat:
                seconds[name].append(clock(device) - began)
    result: dict[str, object] = {}
    for name in calls:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
        result[name] = {
            "seconds": round(statistics.median(seconds[name]), 3),
            f"ratio_to_{base}": round(statistics.median(ratios), 3),
            "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    print(json.dumps(result), flush=True)
    return result


def peak(kind: str, folder: str, steps: int) -> float:
    """Megabytes by which this process grows while it loads and samples.

    `none` is everything but the weights.
    """
    torch.set_num_threads(1)
    folders = [Path(folder, str(i)) for i in range(EXPERTS)]
    before = peak_mb()
    if kind == "routed":
        swapped = SwappedExperts(folders)
        model = swapped.model
        network: Network = RoutedModel(swapped.networks(), uniform(EXPERTS, 1000), 1000)
    elif kind == "resident":
        models = [load_pretrained(str(f)) for f in folders]
        model, network = models[0], RoutedModel(models, uniform(EXPERTS, 1000), 1000)
    else:
        model = network = load_pretrained(str(folders[0]))
    if kind != "loaded":
        sample(network, model, steps, 4, 2, "cpu")
    return peak_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", nargs=2)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    if a.peak:
        print(peak(*a.peak, a.steps))
        return
    if a.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_unconditional(CIFAR10, {}, 0).eval().to(a.device)
    result: dict[str, object] = {
        "model": "35.7M UNet",
        "steps": a.steps,
        "batch": a.batch,
        "repeats": a.repeats,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name()
        if a.device == "cuda"
        else "cpu, one thread, CPU seconds",
    }

    def ours(
        network: Network, count: int = a.batch, of: DenoisingModel = model
    ) -> Callable[[], torch.Tensor]:
        return lambda: sample(network, of, a.steps, count, a.batch, a.device)

    theirs = pipeline_of(model, a.steps, a.batch)
    result["same samples as the pipeline"] = bool(torch.equal(ours(model)(), theirs()))
    result["pipeline"] = turns(
        {"pipeline": theirs, "ours": ours(model)}, "pipeline", a.repeats, a.device
    )
    calls = {"float32": ours(model), "bf16": ours(compute(a.device, "bf16-mixed").network(model))}
    if a.device == "cuda":
        fast = build_unconditional(CIFAR10, {}, 0).eval().to(a.device)
        calls["bf16_compile"] = ours(
            compute(a.device, "bf16-mixed", compiled=True).network(fast), of=fast
        )
    result["precision"] = turns(calls, "float32", a.repeats, a.device)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(EXPERTS):
            each = build_unconditional(CIFAR10, {}, index)
            each.save(Path(folder, str(index)), each.state_dict(), {})
        swapped = SwappedExperts([Path(folder, str(i)) for i in range(EXPERTS)], a.device)
        routed = RoutedModel(swapped.networks(), uniform(EXPERTS, 1000), 1000)
        result["routed"] = turns(
            {"merged": ours(model, a.count), "routed": ours(routed, a.count)},
            "merged",
            a.repeats,
            a.device,
        )
        if a.device == "cpu":
            words = [sys.executable, __file__, "--steps", str(a.steps), "--peak"]
            grown = {
                kind: min(float(subprocess.check_output([*words, kind, folder])) for _ in range(3))
                for kind in ("loaded", "merged", "routed", "resident")
            }
            weights = sum(p.numel() for p in model.parameters()) * 4 / 2**20
            activations = grown["merged"] - weights
            result["memory_mb"] = {
                "weights": round(weights),
                **{kind: round(value) for kind, value in grown.items()},
                "routed_weights_over_one_models": round(
                    (grown["routed"] - activations) / weights, 2
                ),
                "resident_weights_over_one_models": round(
                    (grown["resident"] - activations) / weights, 2
                ),
            }
    record(f"sampling_{a.device}", result)


if __name__ == "__main__":
    main()
