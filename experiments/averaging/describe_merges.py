"""Writes results/task_vectors.csv and results/searched_weights.csv.

    .venv/bin/python experiments/averaging/describe_merges.py [runs]

A task vector is the weights of an expert, or of a copy of a soup, minus those of its base, all
tensors as one vector. `length`: its norm divided by that of the base, the mean over the four
copies; `cosine`: of two copies, the mean over the six pairs; `mean_length`: of the mean of the four
task vectors, which is the change that a uniform merge or a soup makes. `weight_<i>`: the merge
weight of expert i that a search found, `score` the objective at these weights. Numbers are means
over the pretraining and finetuning seeds, `cosine_std` and `weight_0_std` the standard deviation
over them.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import torch
from omegaconf import OmegaConf

import deme

ROWS = ("soup", "soup_consistency", "routed", "routed_consistency")
RESULTS = Path(__file__).parent / "results"
Values = Mapping[tuple[str, str], Sequence[Sequence[float]]]  # base, row -> of each pair of seeds


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
    copies = defaultdict(list)  # base, row, pretraining and finetuning seed -> the copies' runs
    for run in deme.list_runs(folder, suite="averaging", stage="train"):
        if run["method"] in ROWS:
            copies[_labels(run)].append(Path(str(run["path"])))
    vectors = defaultdict(list)
    for (base, row, *_), paths in copies.items():
        vectors[base, row].append(_task_vectors(paths))
    _write("task_vectors.csv", ["length", "cosine", "mean_length"], vectors, 1)

    found = defaultdict(list)
    for run in deme.list_runs(folder, suite="averaging", stage="search"):
        best = json.loads(Path(str(run["path"]), "best.json").read_text())
        if len(best["weights"]) == 4:  # not the mixture of snapshots
            found[_labels(run)[:2]].append([*best["weights"], best["score"]])
    _write("searched_weights.csv", [*(f"weight_{i}" for i in range(4)), "score"], found, 0)


def _labels(run: Mapping[str, object]) -> tuple[str, str, str, str]:
    """Return base, row, pretraining seed and finetuning seed of a run."""
    base, row, pretraining, seed = (
        str(run[label]) for label in ("base", "method", "pretrain_seed", "seed")
    )
    return base, row, pretraining, seed


def _task_vectors(paths: Sequence[Path]) -> list[float]:
    """Return the mean length, the mean cosine and the length of the mean of the task vectors."""
    base = _weights(OmegaConf.load(paths[0] / "config.yaml").model.path)
    vectors = torch.stack([_weights(path) - base for path in paths])
    lengths = vectors.norm(dim=1)
    unit = vectors / lengths[:, None]
    cosines = [float(unit[i] @ unit[j]) for i, j in combinations(range(len(paths)), 2)]
    norm = float(base.norm())
    return [float(lengths.mean()) / norm, fmean(cosines), float(vectors.mean(dim=0).norm()) / norm]


def _weights(model: Path | str) -> torch.Tensor:
    """Return all weights of a model or run as one vector, float64."""
    state = deme.load(model).state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def _write(name: str, columns: Sequence[str], values: Values, spread_of: int) -> None:
    """Write the means of the columns, and the standard deviation of one of them."""
    with (RESULTS / name).open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["base", "row", "num_values", *columns, f"{columns[spread_of]}_std"])
        for (base, row), numbers in sorted(values.items()):
            each = list(zip(*numbers, strict=True))
            cells = [*map(fmean, each), stdev(each[spread_of])]
            table.writerow([base, row, len(numbers), *(f"{cell:.4g}" for cell in cells)])


if __name__ == "__main__":
    main()
