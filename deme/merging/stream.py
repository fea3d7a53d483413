"""Merge models from disk to disk, a piece of a tensor in memory at a time."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deme.errors import WorkFailed
from deme.merging.combine import Merge, merge_tensor
from deme.merging.plan import PIECE, PROJECTIONS, MergePlan, full_name
from deme.tensors import Spec, is_finite, write_stream

SHOWN = 20  # tensors in a message

Done = Callable[[int], None]  # told how many bytes were written since it was last told


@dataclass(frozen=True)
class Fold:
    """Projections that are multiplied into their layers once both are merged (METHOD 1.5).

    `into`: projection's name of each tensor that one is multiplied into. `apply(projection [C, C], tensor)` is the product.
    """

    into: Mapping[str, str]
    apply: Callable[[Tensor, Tensor], Tensor]


def merge_folder(
    plan: MergePlan,
    merge: Merge,
    folder: Path,
    accumulate: torch.dtype = torch.float32,
    dtype: torch.dtype | None = None,
    fold: Fold | None = None,
    done: Done = lambda _: None,
) -> None:
    """Write the merged weights below `folder`, in `dtype` or the experts' own. Raises WorkFailed that names every NaN.

    Integer tensors (counters, indices) are the base's. With `fold` no projections are written: their layers hold them.
    """
    bad: list[str] = []
    merge.prepare(lambda: _whole(plan, accumulate, bad))
    projections: dict[str, Tensor] = {}
    for part in sorted(plan.experts[0].parts, key=lambda part: part.name != PROJECTIONS):
        kinds = [model.parts[part].specs for model in plan.experts]
        specs = {
            name: (shape, _written(kind, [found[name][1] for found in kinds], dtype))
            for name, (shape, kind) in kinds[0].items()
        }
        if fold is not None and part.name == PROJECTIONS:
            projections |= {
                n: torch.cat(list(_merged(plan, part, n, merge, accumulate, bad, whole=True))) for n in specs
            }
            continue

        write_stream(folder / part, specs, _pieces(plan, part, specs, merge, accumulate, bad, fold, projections, done))
    if bad:
        found = list(dict.fromkeys(bad))
        more = f"\n... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise WorkFailed("nothing was merged:\n" + "\n".join(found[:SHOWN]) + more)


def _pieces(
    plan: MergePlan,
    part: Path,
    specs: Mapping[str, Spec],
    merge: Merge,
    accumulate: torch.dtype,
    bad: list[str],
    fold: Fold | None,
    projections: Mapping[str, Tensor],
    done: Done,
) -> Iterator[tuple[str, Tensor]]:
    """Yield what is written of a part: merged, projections multiplied in, in its precision."""
    for name, (_, kind) in specs.items():
        projection = fold.into.get(name) if fold is not None else None
        for piece in _merged(plan, part, name, merge, accumulate, bad, whole=projection is not None):
            if fold is not None and projection is not None:
                piece = fold.apply(projections[projection], piece)
            written = piece.to(kind)
            if not bad and not is_finite(written):
                bad.append(f"tensor {full_name(part, name)} is too large for {str(kind).removeprefix('torch.')}")
            yield name, written
            done(written.nbytes)


def find_nan(plan: MergePlan) -> list[str]:
    """Read all weights and return what is not finite in them, a line per tensor."""
    bad: list[str] = []
    for part, name, _, (shape, _) in plan.tensors():
        numel = math.prod(shape)
        for start in range(0, numel, PIECE):
            _read(plan, part, name, start, min(start + PIECE, numel), bad)
    return list(dict.fromkeys(bad))


def _written(kind: torch.dtype, kinds: list[torch.dtype], dtype: torch.dtype | None) -> torch.dtype:
    if not kind.is_floating_point:
        return kind
    for other in kinds:
        kind = torch.promote_types(kind, other)
    return dtype or kind


def _merged(
    plan: MergePlan, part: Path, name: str, merge: Merge, accumulate: torch.dtype, bad: list[str], whole: bool
) -> Iterator[Tensor]:
    """Yield a merged tensor: flat pieces, or the whole in its shape where it is wanted or the method needs it."""
    shape, _ = plan.experts[0].parts[part].specs[name]
    numel = math.prod(shape)
    whole = whole or not merge.elementwise
    step = max(1, numel) if whole else PIECE
    for start in range(0, numel, step):
        base, *experts = _read(plan, part, name, start, min(start + step, numel), bad)
        if whole:
            base, experts = base.reshape(shape), [expert.reshape(shape) for expert in experts]
        yield merge_tensor(merge, experts, base, full_name(part, name), accumulate)


def _read(plan: MergePlan, part: Path, name: str, start: int, stop: int, bad: list[str]) -> list[Tensor]:
    """Return a flat piece of the base and of every expert; note what is not finite."""
    pieces = []
    for model in (plan.base, *plan.experts):
        piece = model.parts[part].piece(name, start, stop)
        if not is_finite(piece):
            bad.append(f"tensor {name} of {model.parts[part].path} holds NaN or infinite values")
        pieces.append(piece)
    return pieces


def _whole(plan: MergePlan, accumulate: torch.dtype, bad: list[str]) -> Iterator[tuple[str, list[Tensor], Tensor]]:
    for part, tensor, name, (shape, kind) in plan.tensors():
        if kind.is_floating_point:
            base, *experts = (
                t.reshape(shape).to(torch.promote_types(t.dtype, accumulate))
                for t in _read(plan, part, tensor, 0, math.prod(shape), bad)
            )
            yield name, experts, base
