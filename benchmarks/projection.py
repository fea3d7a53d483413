"""What channel projections cost in a forward pass.

Compared are no projections, the paper's placement, foldable ones, and foldable ones after folding,
in the 35.7M UNet of DDPM on CIFAR-10 with random weights and projections that are not the identity.
One process, one thread; the four take turns in another order each time, and medians of the ratios
to the plain UNet are reported. Times are CPU seconds of the process, since wall-clock time on a
shared machine depends on its other users. `--device cuda` measures seconds on a GPU.

`python benchmarks/projection.py` writes results/projection_<device>.json.
"""

import argparse
import platform
import statistics
import time
import warnings

import torch
from record import record
from train_step import CIFAR10

from deme.models.denoiser import DenoisingModel
from deme.models.families.unconditional import build_unconditional


def variant(name: str, device: str) -> DenoisingModel:
    model = build_unconditional(CIFAR10, {}, 0).eval().to(device)
    if name != "none":
        model.add_projections(name.partition("_")[0])
        assert model.projections is not None
        with torch.no_grad():
            for weight in model.projections.parameters():
                weight += 0.1 * torch.randn_like(weight) / weight.shape[0] ** 0.5
    if name == "foldable_folded":
        model.fold_projections()
    return model


def seconds(model: DenoisingModel, x_t: torch.Tensor, t: torch.Tensor, calls: int) -> float:
    clock = time.perf_counter if x_t.is_cuda else time.process_time
    if x_t.is_cuda:
        torch.cuda.synchronize()
    began = clock()
    for _ in range(calls):
        model(x_t, t)
    if x_t.is_cuda:
        torch.cuda.synchronize()
    return (clock() - began) / calls


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=25)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    if a.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    names = ["none", "blocks", "foldable", "foldable_folded"]
    models = {name: variant(name, a.device) for name in names}
    x_t, t = (
        torch.randn(a.batch, 3, 32, 32, device=a.device),
        torch.full((a.batch,), 500, device=a.device),
    )
    plain = sum(p.numel() for p in models["none"].parameters())
    added = {
        name: sum(p.numel() for p in model.parameters()) - plain for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(a.repeats + 1):
        order = names[repeat % 4 :] + names[: repeat % 4]
        for name in order if repeat % 2 else reversed(order):
            spent = seconds(models[name], x_t, t, a.calls)
            if repeat:  # the first turn warms up
                times[name].append(spent)
    result = {
        "model": "35.7M UNet",
        "batch": a.batch,
        "calls": a.calls,
        "repeats": a.repeats,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name()
        if a.device == "cuda"
        else "cpu, one thread, CPU seconds",
        "variants": {},
    }
    for name in names:
        ratios = sorted(
            mine / other for mine, other in zip(times[name], times["none"], strict=True)
        )
        quarter = len(ratios) // 4
        result["variants"][name] = {  # type: ignore[index]
            "parameters_added": added[name],
            "share_of_parameters": round(added[name] / (plain + added[name]), 4),
            "seconds": round(statistics.median(times[name]), 4),
            "ratio_to_none": round(statistics.median(ratios), 4),
            "middle_half": [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)],
        }
    record(f"projection_{a.device}", result)


if __name__ == "__main__":
    main()
