"""Norms, cosines, sign agreement and quantiles of task vectors (paper, Figure 6b)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deme.merging.plan import CHUNK_ELEMENTS, MergePlan

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_SAMPLES = 1 << 16  # evenly spaced entries of a tensor that quantiles are computed from

BLOCK = re.compile(r"(\w+\.\d+|\w+)\.")


@dataclass(frozen=True)
class TensorSimilarity:
    """The N task vectors of one tensor with `count` entries.

    `base_norm`: norm of the base's tensor. `products` [N, N]: inner products. `agreement` [N, N]:
    shares of entries with equal sign, 0 counting as a sign. `quantiles` [N, 5]: `QUANTILES` of the
    entries.
    """

    name: str
    block: str
    count: int
    base_norm: float
    products: list[list[float]]
    agreement: list[list[float]]
    quantiles: list[list[float]]


def block_of(name: str) -> str:
    """Return the block of a tensor: down_blocks.0, mid_block, conv_in, projections, ..."""
    found = BLOCK.match(name)
    return found[1] if found else name


def similarity(plan: MergePlan) -> Iterator[TensorSimilarity]:
    """Compare the task vectors of a plan's models, one piece in memory at a time; no integers."""
    for part, tensor, name, (shape, kind) in plan.tensors():
        if not kind.is_floating_point:
            continue
        numel, total, samples = math.prod(shape), _Sums(len(plan.experts)), []
        stride = max(1, math.ceil(numel / MAX_SAMPLES))
        for start in range(0, numel, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, numel)
            base, *experts = (
                m.parts[part].piece(tensor, start, stop).double()
                for m in (plan.base, *plan.experts)
            )
            vectors = torch.stack(experts) - base
            total.add(vectors, base)
            samples.append(vectors[:, -start % stride :: stride])
        spread = torch.quantile(
            torch.cat(samples, 1), torch.tensor(QUANTILES, dtype=torch.float64), dim=1
        ).T
        agreement = (total.agree / numel).tolist()
        yield TensorSimilarity(
            name,
            block_of(name),
            numel,
            math.sqrt(total.base),
            total.products.tolist(),
            agreement,
            spread.tolist(),
        )


class _Sums:
    def __init__(self, num_models: int) -> None:
        self.products = torch.zeros(num_models, num_models, dtype=torch.float64)
        self.agree = torch.zeros(num_models, num_models, dtype=torch.float64)
        self.base = 0.0

    def add(self, vectors: Tensor, base: Tensor) -> None:
        self.products += vectors @ vectors.T
        positive, negative, zero = (
            (vectors > 0).double(),
            (vectors < 0).double(),
            (vectors == 0).double(),
        )
        self.agree += positive @ positive.T + negative @ negative.T + zero @ zero.T
        self.base += float(base.square().sum())
