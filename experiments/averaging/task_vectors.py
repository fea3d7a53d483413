"""Writes results/task_vectors.csv: how long the changes of the copies are, and how much they agree.

    .venv/bin/python experiments/averaging/task_vectors.py [runs]

A task vector is the weights of an expert, or of a copy of a soup, minus those of its base, all
tensors as one vector. `length`: its norm divided by that of the base, the mean over the four
copies; `cosine`: of two copies, the mean over the six pairs; `mean_length`: of the mean of the four
task vectors, which is the change that a uniform merge or a soup makes. Each is the mean over the
pretraining and finetuning seeds; `cosine_std` is the standard deviation over them.
"""

import csv
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import torch
from omegaconf import OmegaConf

import deme

ROWS = ("soup", "soup_consistency", "routed", "routed_consistency")
COLUMNS = ("base", "row", "num_values", "length", "cosine", "cosine_std", "mean_length")
FILE = Path(__file__).parent / "results" / "task_vectors.csv"


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
    copies = defaultdict(list)  # base, row, pretraining seed, finetuning seed -> the copies' runs
    for run in deme.list_runs(folder, suite="averaging", stage="train"):
        if run["method"] in ROWS:
            copies[run["base"], run["method"], run["pretrain_seed"], run["seed"]].append(
                run["path"]
            )
    numbers = defaultdict(list)
    for (base, row, *_), paths in copies.items():
        numbers[base, row].append(_numbers(paths))
    with FILE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ["base", "row", "num_values", "length", "cosine", "cosine_std", "mean_length"]
        )
        for (base, row), values in sorted(numbers.items()):
            length, cosine, mean = zip(*values, strict=True)
            cells = [fmean(length), fmean(cosine), stdev(cosine), fmean(mean)]
            table.writerow([base, row, len(values), *(f"{cell:.4f}" for cell in cells)])


def _numbers(paths: list[Path]) -> tuple[float, float, float]:
    """Return the mean length, the mean cosine and the length of the mean of the task vectors."""
    base = _weights(OmegaConf.load(paths[0] / "config.yaml").model.path)
    vectors = torch.stack([_weights(path) - base for path in paths])
    lengths = vectors.norm(dim=1)
    unit = vectors / lengths[:, None]
    cosines = [float(unit[i] @ unit[j]) for i, j in combinations(range(len(paths)), 2)]
    norm = float(base.norm())
    return float(lengths.mean()) / norm, fmean(cosines), float(vectors.mean(dim=0).norm()) / norm


def _weights(model: Path | str) -> torch.Tensor:
    """Return all weights of a model or run as one vector, float64."""
    state = deme.load(model).state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


if __name__ == "__main__":
    main()
