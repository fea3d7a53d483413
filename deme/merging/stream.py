"""Merge models from disk to disk, with one piece of a tensor in memory at a time."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deme.merging.combine import Merge, merge_tensor
from deme.merging.plan import CHUNK_ELEMENTS, PROJECTIONS, MergePlan, full_name
from deme.system import WorkFailed, first_lines
from deme.system.tensors import Spec, is_finite, write_stream

SUM_ELEMENTS = 1 << 20  # of one model at a time, where the merge is a sum of models
OnBytes = Callable[[int], object]  # called with the number of bytes that were just processed


@dataclass(frozen=True)
class Fold:
    """Projections that are multiplied into their layers after both are merged.

    `into`: tensor name -> name of the projection that it is multiplied by.
    `apply(projection [C, C], tensor)` returns the product.
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
    on_written: OnBytes = lambda _: None,
) -> None:
    """Write the merged weights below `folder`, in `dtype` or in float32 (float64 of such experts).

    Integer tensors (counters, indices) are the base's. With `fold` no projections are written: they
    are part of their layers. Raises WorkFailed that names every tensor with NaN.
    """
    reader = _Reader(plan)
    merge.prepare(lambda: _whole(reader, accumulate))
    projections: dict[str, Tensor] = {}
    for part in sorted(plan.experts[0].parts, key=lambda part: part.name != PROJECTIONS):
        kinds = [model.parts[part].specs for model in plan.experts]
        specs = {
            name: (shape, _written([found[name][1] for found in kinds], dtype))
            for name, (shape, _) in kinds[0].items()
        }
        if fold is not None and part.name == PROJECTIONS:
            projections |= {
                n: torch.cat(list(_merged(reader, part, n, merge, accumulate, whole=True)))
                for n in specs
            }
            continue

        write_stream(
            folder / part,
            specs,
            _pieces(reader, part, specs, merge, accumulate, fold, projections, on_written),
        )
    if reader.bad:
        raise WorkFailed(f"nothing was merged:\n{first_lines(list(dict.fromkeys(reader.bad)))}")


def _pieces(
    reader: "_Reader",
    part: Path,
    specs: Mapping[str, Spec],
    merge: Merge,
    accumulate: torch.dtype,
    fold: Fold | None,
    projections: Mapping[str, Tensor],
    on_written: OnBytes,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the merged pieces of a part, with projections multiplied in, in the final precision."""
    for name, (_, kind) in specs.items():
        projection = fold.into.get(name) if fold is not None else None
        for piece in _merged(reader, part, name, merge, accumulate, whole=projection is not None):
            if fold is not None and projection is not None:
                piece = fold.apply(projections[projection], piece)
            written = piece.to(kind)
            checked = kind == piece.dtype and merge.propagates_nan(full_name(part, name))
            if not checked and not reader.bad and not is_finite(written):
                reader.bad.append(
                    f"the merge of tensor {full_name(part, name)} overflows "
                    f"{str(kind).removeprefix('torch.')}"
                )
            yield name, written
            on_written(written.nbytes)


def share_kept_by_rounding(
    plan: MergePlan,
    merge: Merge,
    dtype: torch.dtype,
    accumulate: torch.dtype = torch.float32,
    on_read: OnBytes = lambda _: None,
) -> float:
    """Return which share of the merge's change is kept after rounding to `dtype`.

    It is 1 - ||cast(merged) - merged||^2 / ||merged - base||^2, at least 0, over all tensors; 1 for
    a merge that changes nothing. Reads all models once more.
    """
    reader, lost, whole = _Reader(plan), 0.0, 0.0
    merge.prepare(lambda: _whole(reader, accumulate))
    for part, tensor, name, (shape, kind) in plan.tensors():
        if not kind.is_floating_point:
            continue
        numel = math.prod(shape)
        step = CHUNK_ELEMENTS if merge.method.elementwise else max(1, numel)
        for start in range(0, numel, step):
            pieces = reader.read(part, tensor, start, min(start + step, numel))
            base, *experts = pieces if step < numel else [p.reshape(shape) for p in pieces]
            merged = merge_tensor(merge, experts, base, name, accumulate)
            lost += float((merged.to(dtype).to(merged.dtype) - merged).double().square().sum())
            whole += float((merged - base.to(merged.dtype)).double().square().sum())
            on_read(sum(piece.nbytes for piece in pieces))
    return max(0.0, 1 - lost / whole) if whole else 1.0


def find_nan(plan: MergePlan, on_read: OnBytes = lambda _: None) -> list[str]:
    """Read all weights and return a line for every tensor with NaN or infinite values."""
    reader = _Reader(plan)
    for part, name, _, (shape, _) in plan.tensors():
        numel = math.prod(shape)
        for start in range(0, numel, CHUNK_ELEMENTS):
            pieces = reader.read(part, name, start, min(start + CHUNK_ELEMENTS, numel))
            on_read(sum(piece.nbytes for piece in pieces))
    return list(dict.fromkeys(reader.bad))


def _written(kinds: list[torch.dtype], dtype: torch.dtype | None) -> torch.dtype:
    if not kinds[0].is_floating_point:
        return kinds[0]
    return dtype or functools.reduce(torch.promote_types, kinds, torch.float32)


def _merged(
    reader: "_Reader", part: Path, name: str, merge: Merge, accumulate: torch.dtype, whole: bool
) -> Iterator[Tensor]:
    """Yield a merged tensor in flat pieces; whole, if wanted or if the method needs it whole."""
    shape, kind = reader.plan.experts[0].parts[part].specs[name]
    numel = math.prod(shape)
    whole = whole or not merge.method.elementwise
    # If NaN propagates, checking the merged piece replaces checking that of every model.
    propagates = merge.propagates_nan(full_name(part, name))
    weights = merge.sum_weights(full_name(part, name)) if kind.is_floating_point else None
    if weights is not None and propagates and not whole:
        yield from _summed(reader, part, name, weights, accumulate)
        return
    step = max(1, numel) if whole else CHUNK_ELEMENTS
    for start in range(0, numel, step):
        stop = min(start + step, numel)
        base, *experts = reader.read(part, name, start, stop, check=not propagates)
        if whole:
            base, experts = base.reshape(shape), [expert.reshape(shape) for expert in experts]
        merged = merge_tensor(merge, experts, base, full_name(part, name), accumulate)
        if propagates:
            _check(reader, part, name, start, merged)
        yield merged


def _summed(
    reader: "_Reader", part: Path, name: str, weights: Sequence[float], accumulate: torch.dtype
) -> Iterator[Tensor]:
    """Yield the weighted sum of a tensor of all models, with one model's piece in memory.

    The arithmetic is that of merge=linear, in larger pieces: most of the time is that of reading.
    """
    files = [model.parts[part] for model in reader.plan.experts]
    shape, kind = files[0].specs[name]
    dtype, numel = torch.promote_types(kind, accumulate), math.prod(shape)
    term = torch.empty(min(numel, SUM_ELEMENTS), dtype=dtype)  # no new memory for every model
    for start in range(0, numel, SUM_ELEMENTS):
        stop = min(start + SUM_ELEMENTS, numel)
        pieces = (file.piece(name, start, stop).to(dtype) for file in files)
        merged = weights[0] * next(pieces)
        for piece, weight in zip(pieces, weights[1:], strict=True):
            merged.add_(torch.mul(piece, weight, out=term[: stop - start]))
        _check(reader, part, name, start, merged)
        yield merged


def _check(reader: "_Reader", part: Path, name: str, start: int, merged: Tensor) -> None:
    """Note where NaN or infinity in a merged piece comes from."""
    if is_finite(merged):
        return
    known = len(reader.bad)
    reader.read(part, name, start, start + merged.numel())  # finds the model that it comes from
    if len(reader.bad) == known:
        reader.bad.append(f"the merge of tensor {full_name(part, name)} overflows {merged.dtype}")


class _Reader:
    """Reads the base and every expert, and collects tensors that are not finite in `bad`."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan, self.bad = plan, list[str]()

    def read(
        self, part: Path, name: str, start: int, stop: int, check: bool = True
    ) -> list[Tensor]:
        """Return a flat piece of the base and of every expert."""
        files = [model.parts[part] for model in self.plan.models]
        pieces = [file.piece(name, start, stop) for file in files]
        if check:
            self.bad += [
                f"tensor {name} of {file.path} holds NaN or infinite values"
                for file, piece in zip(files, pieces, strict=True)
                if not is_finite(piece)
            ]
        return pieces if len(pieces) > len(self.plan.experts) else [pieces[0], *pieces]


def _whole(reader: _Reader, accumulate: torch.dtype) -> Iterator[tuple[str, list[Tensor], Tensor]]:
    for part, tensor, name, (shape, kind) in reader.plan.tensors():
        if kind.is_floating_point:
            base, *experts = (
                t.reshape(shape).to(torch.promote_types(t.dtype, accumulate))
                for t in reader.read(part, tensor, 0, math.prod(shape))
            )
            yield name, experts, base
