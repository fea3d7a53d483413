"""Check from file headers alone that models can be merged, and estimate what merging takes.

All mismatches are reported at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from deme.diffusion import TimestepRange, check_partition
from deme.merging.combine import Merge
from deme.system import About, BadConfig, first_lines, read_about
from deme.system.tensors import Spec, Tensors

PROJECTIONS = "projections.safetensors"
CHUNK_ELEMENTS = 1 << 18  # elements that are merged at once: they fit into the processor's cache


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk as merging sees it: configs, and the headers of its weights.

    `parts`: file, relative to `folder`, in which a merge writes them -> the network's weights and
    its channel projections, if it has any. `config`: that of the network. `about`: deme.json, {}
    without one. `placement`: that of the projections. `noise`: the keys of the scheduler's config
    about the noise schedule and the prediction, {} without one. `ema`: whether the weights are the
    averaged ones next to the others. `base_folder`: the model folder of a LoRA's base.
    """

    folder: Path
    parts: Mapping[Path, Tensors]
    config: Mapping[str, object]
    about: About
    placement: str | None = None
    noise: Mapping[str, object] = field(default_factory=dict)
    ema: bool = False
    base_folder: Path | None = None

    @property
    def configs(self) -> Path:
        """The folder of the configs and of the pipeline's other parts."""
        return self.base_folder or self.folder

    @property
    def range(self) -> TimestepRange | None:
        """The timestep range that the model was finetuned for, None if it names none."""
        ends = self.about.get("range")
        return TimestepRange(*ends) if ends is not None else None


@dataclass(frozen=True)
class MergePlan:
    """A base and experts, by range (low noise first), or as given if they name no ranges."""

    base: Checkpoint
    experts: tuple[Checkpoint, ...]

    @property
    def models(self) -> tuple[Checkpoint, ...]:
        """What is read: the base, unless it is the first of the models, and the models."""
        if self.base is self.experts[0]:
            return self.experts
        return (self.base, *self.experts)

    def tensors(self) -> Iterator[tuple[Path, str, str, Spec]]:
        """Yield file, name in the file, full name and spec of every tensor; projections first."""
        for part in sorted(self.experts[0].parts, key=lambda part: part.name != PROJECTIONS):
            for tensor, spec in self.experts[0].parts[part].specs.items():
                yield part, tensor, full_name(part, tensor), spec

    def names(self) -> list[str]:
        """Return the full names of all tensors."""
        return [name for _, _, name, _ in self.tensors()]

    @property
    def folds(self) -> bool:
        """Whether projections can be multiplied into their layers after both are merged."""
        return self.experts[0].placement == "foldable"

    @property
    def bytes_read(self) -> int:
        """Bytes of all weights that are read."""
        return sum(
            math.prod(shape) * dtype.itemsize
            for model in self.models
            for tensors in model.parts.values()
            for shape, dtype in tensors.specs.values()
        )

    def bytes_written(self, dtype: torch.dtype | None = None, folded: bool = False) -> int:
        """Bytes of the merged weights; with `folded` without projections."""
        return sum(
            math.prod(shape) * (dtype or torch.promote_types(kind, torch.float32)).itemsize
            if kind.is_floating_point
            else math.prod(shape) * kind.itemsize
            for part, _, _, (shape, kind) in self.tensors()
            if not (folded and part.name == PROJECTIONS)
        )

    def memory(self, merge: Merge, accumulate: torch.dtype) -> int:
        """Estimated bytes in memory: pieces, or whole tensors if the method needs them whole."""
        largest = max(math.prod(shape) for _, _, _, (shape, _) in self.tensors())
        at_once = min(largest, CHUNK_ELEMENTS) if merge.method.elementwise else largest
        return 2 * (len(self.experts) + 2) * at_once * accumulate.itemsize


def full_name(part: Path, tensor: str) -> str:
    """Return the name of a tensor in the whole model: projections.<name> for a projection."""
    return f"projections.{tensor}" if part.name == PROJECTIONS else tensor


def plan_merge(
    base: Checkpoint, models: Sequence[Checkpoint], base_hash: str, of_checkpoints: bool = False
) -> MergePlan:
    """Compare ranges, bases, architectures, tensor names and shapes, and return the plan.

    `base_hash`: content hash of the base, which experts recorded when they were trained.
    `of_checkpoints`: any models of one architecture are allowed.
    Models that name no range keep their order. A base without projections gets identity
    projections. Raises BadConfig with all mismatches.
    """
    models, problems = (tuple(models), []) if of_checkpoints else _ordered(models)
    if not models:
        raise BadConfig("there is nothing to merge: inputs.experts names no models")
    if not of_checkpoints:
        problems += [
            f"{model.folder} was finetuned from another base: its deme.json names "
            f"{model.about['base']}, {base.folder} is {base_hash}"
            for model in models
            if model.about.get("base") not in (None, base_hash)
        ]
    if base.placement is None and models[0].placement is not None:
        found = models[0].parts.items()
        identities = {part: Identities(like) for part, like in found if part.name == PROJECTIONS}
        base = replace(base, parts={**base.parts, **identities}, placement=models[0].placement)
    problems += [line for model in models for line in differences(base, model)]
    placements = {str(m.folder): m.placement for m in (base, *models)}
    if len(set(placements.values())) > 1:
        problems += [
            f"{folder} has channel projections with placement={placement}"
            if placement
            else f"{folder} has no channel projections"
            for folder, placement in placements.items()
        ]
    if problems:
        count = f"{len(problems)} mismatch{'es' if len(problems) > 1 else ''}"
        raise BadConfig(f"these models cannot be merged, {count}:\n{first_lines(problems)}")
    return MergePlan(base, models)


def order_experts(folders: Sequence[Path]) -> tuple[Checkpoint, ...]:
    """Read what deme.json says of experts, not their weights, and sort them by range.

    Raises BadConfig unless they cover every timestep once and have the same base.
    """
    experts = [Checkpoint(folder, {}, {}, read_about(folder)) for folder in folders]
    for expert in experts:
        if expert.range is None:
            raise BadConfig(
                f"{expert.folder} is not an expert: its deme.json names no timestep range\n"
                "type: deme train method=deme ranges.num_ranges=<N> expert=<i>"
            )
    ordered, problems = _ordered(experts)
    if not problems and len({expert.about.get("base") for expert in experts} - {None}) > 1:
        problems = [
            "the experts do not fit together: their deme.json files name different bases "
            f"({', '.join(map(str, folders))})"
        ]
    if problems:
        raise BadConfig(problems[0])
    return ordered


def _ordered(models: Sequence[Checkpoint]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """Return models by range, or as they are given if none names a range, and what does not fit."""
    ranges = [model.range for model in models if model.range is not None]
    if len(ranges) < len(models) or not models:
        return tuple(models), [
            f"{model.folder} names no timestep range in a deme.json, the others do"
            for model in models
            if model.range is None and ranges
        ]
    ordered = tuple(sorted(models, key=lambda model: model.range.low if model.range else 0))
    try:
        num_timesteps = models[0].about.get("num_timesteps") or max(each.high for each in ranges)
        check_partition(sorted(ranges, key=lambda each: each.low), num_timesteps)
    except ValueError as error:
        folders = ", ".join(str(model.folder) for model in models)
        return ordered, [f"the experts do not fit together: {error} ({folders})"]
    return ordered, []


def differences(base: Checkpoint, model: Checkpoint) -> Iterator[str]:
    """Yield what prevents merging a model into another, the base: configs, files, tensors."""
    configs = (
        ("config.json", base.config, model.config),
        ("scheduler_config.json", base.noise, model.noise),
    )
    for file, ours, theirs in configs:
        for key in sorted(ours.keys() & theirs.keys()):
            named = key == "_class_name" or not key.startswith("_")
            if named and ours[key] != theirs[key]:
                expected_by = f"{base.folder} has {ours[key]}"
                yield f"{model.folder} has {key}={theirs[key]} in its {file}, {expected_by}"
    for part in sorted(base.parts.keys() | model.parts.keys()):
        if part.name == PROJECTIONS and base.placement != model.placement:
            continue  # reported once, not for every tensor
        if part not in model.parts or part not in base.parts:
            yield f"{(base if part not in base.parts else model).folder} has no {part}"
            continue
        expected, found = base.parts[part].specs, model.parts[part].specs
        for tensor in sorted(expected.keys() | found.keys()):
            one, other = expected.get(tensor), found.get(tensor)
            if _kind(one) != _kind(other):
                path = model.parts[part].path
                yield f"{path}: {tensor} is {_spec(other)}, in {base.folder} {_spec(one)}"


def _kind(spec: Spec | None) -> tuple[tuple[int, ...], bool] | None:
    """Return what must agree; precisions need not, such as a base in half precision."""
    return (spec[0], spec[1].is_floating_point) if spec else None


def _spec(spec: Spec | None) -> str:
    return f"{list(spec[0])} {str(spec[1]).removeprefix('torch.')}" if spec else "missing"


class Identities:
    """The identity projections [C, C, 1, 1] that a base without projections has."""

    def __init__(self, like: Tensors) -> None:
        self.path, self.specs = like.path, like.specs

    def read(self, name: str) -> Tensor:
        """Return one identity."""
        shape, dtype = self.specs[name]
        return torch.eye(shape[0], dtype=dtype).reshape(shape)

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements start:stop of an identity, flat."""
        return self.read(name).reshape(-1)[start:stop]
