"""Merging 4 experts of the 35.7M UNet again in memory, compared with sums of state dicts.

This is what a search for merge weights repeats. All ways take turns in one process. Ours:
deme.merging.live.LiveMerge, which shares its memory with a live model; `all_weights`: a new weight
vector; `one_weight`: one weight of it changes. `state_dicts`: a deep copy of the model, base + sum
w (expert - base) tensor by tensor, load_state_dict. Times are CPU seconds of the process (one
thread); medians and ranges of ratios. The results are compared, for a new weight vector and after
1,000 changes of one weight each, with each other and with the same sum in float64.

`python benchmarks/remerge.py` writes benchmarks/results/remerge.json.
"""

import argparse
import copy
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from record import record
from torch import Tensor, nn

from deme.merging.live import LiveMerge
from deme.runs import compose_stage, instantiate

COUNT, CALLS, CHANGES = 4, 5, 1000
TARGETS = {"all_weights": 6, "one_weight": 20}
State = Mapping[str, Tensor]


def by_state_dicts(
    model: nn.Module, base: State, experts: Sequence[State], weights: Sequence[float]
) -> nn.Module:
    merged = {
        name: tensor
        + sum(w * (expert[name] - tensor) for w, expert in zip(weights, experts, strict=True))
        for name, tensor in base.items()
    }
    copied = copy.deepcopy(model)
    copied.load_state_dict(merged)
    return copied


def cpu_seconds(call: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls


def differences(
    model: nn.Module, base: State, experts: Sequence[State], weights: Sequence[float]
) -> dict[str, float]:
    """Largest differences of any number: ours to state dicts, and of both to the sum in float64."""
    ours, theirs = model.state_dict(), by_state_dicts(model, base, experts, weights).state_dict()
    found = {"ours_to_state_dicts": 0.0, "ours_to_float64": 0.0, "state_dicts_to_float64": 0.0}
    for name, tensor in base.items():
        exact = tensor.double() + sum(
            w * (expert[name].double() - tensor.double())
            for w, expert in zip(weights, experts, strict=True)
        )
        pairs = ((ours[name], theirs[name]), (ours[name], exact), (theirs[name], exact))
        for what, (one, other) in zip(found, pairs, strict=True):
            found[what] = max(found[what], float((one.double() - other.double()).abs().max()))
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def random_weights() -> list[float]:
        return torch.rand(COUNT, generator=generator, dtype=torch.float64).tolist()

    model = instantiate(compose_stage("train", ["model=ddpm_cifar10"])["model"]).unet.eval()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    experts = [
        {n: t + 0.001 * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        for _ in range(COUNT)
    ]
    live = LiveMerge(base, experts)
    live.share_with(model.state_dict(keep_vars=True))
    weights = random_weights()

    def change_one() -> None:
        nonlocal weights
        expert = int(torch.randint(COUNT, (1,), generator=generator))
        weights = [*weights[:expert], random_weights()[0], *weights[expert + 1 :]]
        live.incremental = True
        live.merge(weights)
        live.incremental = False

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "all_weights": (lambda: live.merge(random_weights()), CALLS),
        "one_weight": (change_one, 2 * 64),  # twice as many as until all is made anew
        "state_dicts": (lambda: by_state_dicts(model, base, experts, random_weights()), 1),
    }
    rounds: list[dict[str, float]] = []
    for repeat in range(a.repeats + 1):
        found = {}
        for way in list(ways) if repeat % 2 else list(reversed(ways)):
            if way == "one_weight":
                live.merge(weights)  # the vector that one weight changes of
            found[way] = cpu_seconds(*ways[way])
        if repeat:  # the first round warms up
            rounds.append(found)
            print({way: f"{1000 * spent:.1f} ms" for way, spent in found.items()}, flush=True)
    ratios = {way: sorted(r["state_dicts"] / r[way] for r in rounds) for way in TARGETS}

    live.merge(weights := random_weights())
    anew = differences(model, base, experts, weights)
    for _ in range(CHANGES):
        change_one()
    result = {
        "model": "35.7M UNet",
        "experts": COUNT,
        "repeats": len(rounds),
        "cpu_ms": {way: round(1000 * statistics.median(r[way] for r in rounds), 2) for way in ways},
        "times_faster": {
            way: {
                "median": round(statistics.median(v), 1),
                "min": round(v[0], 1),
                "max": round(v[-1], 1),
                "target": TARGETS[way],
            }
            for way, v in ratios.items()
        },
        "largest_number": max(float(tensor.abs().max()) for tensor in base.values()),
        "largest_difference": {
            "new weights": anew,
            f"{CHANGES} single changes": differences(model, base, experts, weights),
        },
        "torch": torch.__version__,
        "threads": 1,
        "machine": platform.machine(),
    }
    record("remerge", result)


if __name__ == "__main__":
    main()
