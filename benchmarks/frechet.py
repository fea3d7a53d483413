"""The Frechet distance, compared with scipy's matrix square root and with an exact reference.

All variants take turns in one process. At d = 2048 on well-conditioned covariances, ours is
computed from moments, with the square root of the reference's covariance taken beforehand (as in an
evaluation). At n = 1,000 images of 2,048 features, ours is computed from features (n x n). Both are
compared with |m1 - m2|^2 + tr(S1 + S2) - 2 tr sqrtm(S1 S2), as pytorch-fid computes it, with 1e-6
added to the diagonals where its square root is not finite. The exact value for n < d is the sum of
the singular values of X1 X2^T (nothing is squared).

`python benchmarks/frechet.py` writes results/frechet.json.
"""

import json
import platform
import statistics
import time

import numpy as np
import scipy
import torch
from record import record
from scipy.linalg import sqrtm

from deme.metrics import FrechetDistance, Statistics

D, FEW, REPEATS = 2048, 1000, 3


def features(n: int, seed: int) -> torch.Tensor:
    """Correlated features; the spectrum decays as Inception's does and has no exact zeros."""
    g = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(
        torch.randn(D, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    )
    scales = torch.logspace(0, -1.5, D, dtype=torch.float64)
    return torch.randn(n, D, generator=g, dtype=torch.float64) * scales @ rotation + 0.1 * seed


def by_square_root(one: Statistics, two: Statistics) -> float:
    s1, s2 = one.covariance.numpy(), two.covariance.numpy()
    root = sqrtm(s1 @ s2)
    if not np.isfinite(root).all():
        eye = 1e-6 * np.eye(D)
        root = sqrtm((s1 + eye) @ (s2 + eye))
    offset = one.mean.numpy() - two.mean.numpy()
    return float(offset @ offset + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real)


def by_singular_values(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return float(
        (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * cross
    )


def timed(call):  # type: ignore[no-untyped-def]
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return value, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    torch.set_num_threads(1)
    reference = features(6000, 0)
    many, few = features(5000, 1), features(FEW, 2)
    of_reference, of_many, of_few = (Statistics().update(x) for x in (reference, many, few))
    began = time.perf_counter()
    distance = FrechetDistance(of_reference)
    root_seconds = time.perf_counter() - began
    cases = {
        "moments, d = 2048": (
            lambda: distance(of_many),
            lambda: by_square_root(of_many, of_reference),
        ),
        f"features, n = {FEW:,}": (
            lambda: distance.of_features(few),
            lambda: by_square_root(of_few, of_reference),
        ),
    }
    result = {
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "repeats": REPEATS,
        "root_of_reference_seconds": round(root_seconds, 2),
    }
    for name, (ours, theirs) in cases.items():
        ours()
        pairs = [(timed(ours), timed(theirs)) for _ in range(REPEATS)]
        ratios = sorted(theirs[1] / ours[1] for ours, theirs in pairs)
        mine, other = pairs[0][0][0], pairs[0][1][0]
        result[name] = {
            "times_faster_median": round(statistics.median(ratios), 1),
            "times_faster_range": [round(ratios[0], 1), round(ratios[-1], 1)],
            "ours_seconds": round(statistics.median(p[0][1] for p in pairs), 3),
            "sqrtm_seconds": round(statistics.median(p[1][1] for p in pairs), 2),
            "value": mine,
            "relative_difference": abs(mine - other) / other,
        }
        print(json.dumps({name: result[name]}), flush=True)
    exact = by_singular_values(few, reference)
    result["against singular values"] = {
        "ours_relative_error": abs(distance.of_features(few) - exact) / exact,
        "sqrtm_relative_error": abs(by_square_root(of_few, of_reference) - exact) / exact,
    }
    record("frechet", result)


if __name__ == "__main__":
    main()
