"""The merge of LoRA experts as one LoRA."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deme.merging.adapters import MergedLayer, concatenate_factors, low_rank_factors, truncate_rank
from deme.merging.combine import Merge
from deme.merging.plan import MergePlan
from deme.models.adapter_files import write_factors
from deme.models.adapter_tensors import AdaptedTensors, AdapterFile, delta_weight
from deme.system import BadConfig, WorkFailed
from deme.system.tensors import Tensors, is_finite

FORMS = ("svd", "cat", "fuse")


@dataclass(frozen=True)
class MergedAdapter:
    """What was merged: the rank, and which share of the change's squared norm the rank drops."""

    rank: int
    num_layers: int
    dropped: float


def adapters_of(plan: MergePlan) -> list[AdapterFile]:
    """Return the adapters of a plan whose experts are all LoRA experts, else an empty list."""
    weights = [one for model in plan.experts for one in model.parts.values()]
    found = [one.adapter for one in weights if isinstance(one, AdaptedTensors)]
    return found if len(found) == len(plan.experts) else []


def check_form(form: str, merge: Merge, rank: int | None, adapters: Sequence[AdapterFile]) -> None:
    """Raise BadConfig for a form and a rank that the merge of LoRA experts cannot have."""
    ranks = [max(map(adapter.rank, adapter.layers), default=0) for adapter in adapters]
    if form == "svd" and merge.method.equal_singular_values and (rank or max(ranks)) < sum(ranks):
        raise BadConfig(
            f"merge={merge.method.__name__} makes all singular values of the merged change equal, "
            f"so its rank cannot be reduced from {sum(ranks)} to {rank or max(ranks)}\n"
            f"type: lora.rank={sum(ranks)}, or lora.form=fuse"
        )
    if form == "cat" and not merge.is_weighted_sum:
        raise BadConfig(
            f"lora.form=cat needs a weighted sum, and merge={merge.method.__name__} is another "
            "method\ntype: lora.form=svd, or lora.form=fuse"
        )


def merge_adapters(
    plan: MergePlan,
    merge: Merge,
    form: str,
    rank: int | None,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    on_layer: Callable[[], object] = lambda: None,
) -> MergedAdapter:
    """Write the merge of LoRA experts into a folder as one LoRA; return what it is.

    `form` is svd or cat; `rank`, of svd, is the largest of the experts' unless it is given. The
    arithmetic is in `dtype`, the result in float32. A weighted sum is never made as a whole; other
    methods work on the whole changes, one layer at a time. Raises WorkFailed for values that are
    not finite.
    """
    adapters = adapters_of(plan)
    ((place, base),) = plan.base.parts.items()
    layers = list(dict.fromkeys(layer for adapter in adapters for layer in adapter.layers))
    if not merge.is_weighted_sum:
        merge.prepare(lambda: _whole(layers, adapters, base, dtype))
    wanted = rank or max(adapter.rank(layer) for adapter in adapters for layer in adapter.layers)
    found: dict[str, Tensor] = {}
    norm = dropped = 0.0
    for layer in layers:
        merged = _merged(layer, adapters, base, merge, form, wanted, dtype)
        norm, dropped = norm + merged.norm, dropped + merged.dropped
        for factor, value in zip("AB", merged.factors, strict=True):
            if not is_finite(value):
                raise WorkFailed(f"the merge of layer {layer} holds NaN or infinite values")
            found[f"{layer}.lora_{factor}.weight"] = value.float()
        on_layer()
    write_factors(folder, place.parts[0], _of_one_rank(found))
    largest = max(len(value) for name, value in found.items() if ".lora_A." in name)
    return MergedAdapter(largest, len(layers), dropped / norm if norm else 0.0)


def _merged(
    layer: str,
    adapters: Sequence[AdapterFile],
    base: Tensors,
    merge: Merge,
    form: str,
    rank: int,
    dtype: torch.dtype,
) -> MergedLayer:
    name = f"{layer}.weight"
    if not merge.is_weighted_sum:
        changes, nothing = _changes(layer, adapters, base, dtype)
        return low_rank_factors(merge(changes, nothing, name), rank)
    weights = merge.weights_for(name) or []
    pairs = [
        (adapter.factors(layer, dtype), weight)
        for adapter, weight in zip(adapters, weights, strict=True)
        if layer in adapter.layers
    ]
    whole = concatenate_factors([factors for factors, _ in pairs], [weight for _, weight in pairs])
    if form == "cat":
        return MergedLayer(whole, 0.0, 0.0)
    shape = base.specs[name][0]
    return truncate_rank(whole, min(rank, shape[0], math.prod(shape[1:])))


def _changes(
    layer: str, adapters: Sequence[AdapterFile], base: Tensors, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """Return each expert's change of a layer, and zeros: adding the base would round them."""
    nothing = torch.zeros(base.specs[f"{layer}.weight"][0], dtype=dtype)
    return [
        delta_weight(each.factors(layer, dtype)) if layer in each.layers else nothing
        for each in adapters
    ], nothing


def _whole(
    layers: Sequence[str], adapters: Sequence[AdapterFile], base: Tensors, dtype: torch.dtype
) -> Iterator[tuple[str, Sequence[Tensor], Tensor]]:
    for layer in layers:
        yield f"{layer}.weight", *_changes(layer, adapters, base, dtype)


def _of_one_rank(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return factors of one rank: those of smaller layers are filled up with zeros."""
    rank = max(len(value) for name, value in found.items() if ".lora_A." in name)
    filled = {}
    for name, value in found.items():
        axis = int(".lora_B." in name)
        shape = list(value.shape)
        shape[axis] = rank - shape[axis]
        filled[name] = torch.cat([value, value.new_zeros(shape)], axis)
    return filled
