"""Norms, cosines, sign agreement and quantiles of task vectors (paper, Figure 6b)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

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
    size = len(plan.experts)
    for part, tensor, name, (shape, kind) in plan.tensors():
        if not kind.is_floating_point:
            continue
        numel, samples, base_square = math.prod(shape), [], 0.0
        products, agree = torch.zeros(2, size, size, dtype=torch.float64)
        stride = max(1, math.ceil(numel / MAX_SAMPLES))
        for start in range(0, numel, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, numel)
            base, *experts = (
                m.parts[part].piece(tensor, start, stop).double()
                for m in (plan.base, *plan.experts)
            )
            vectors = torch.stack(experts) - base
            products += vectors @ vectors.T
            for sign in (1, -1, 0):
                of_sign = (vectors.sign() == sign).double()
                agree += of_sign @ of_sign.T
            base_square += float(base.square().sum())
            samples.append(vectors[:, -start % stride :: stride])
        yield TensorSimilarity(
            name,
            block_of(name),
            numel,
            math.sqrt(base_square),
            products.tolist(),
            (agree / numel).tolist(),
            torch.quantile(torch.cat(samples, 1), vectors.new_tensor(QUANTILES), dim=1).T.tolist(),
        )
