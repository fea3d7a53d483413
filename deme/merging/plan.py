"""Check from headers alone that models can be merged, list everything that is wrong at once, and say what it will take."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.diffusion.ranges import TimestepRange, check_partition
from deme.merging.combine import Merge
from deme.system.errors import BadConfig
from deme.system.files import read_json
from deme.system.tensors import Spec, Tensors

PROJECTIONS = "projections.safetensors"
SHOWN = 20  # mismatches in a message
CHUNK_ELEMENTS = (
    1 << 18
)  # elements merged at once, where pieces may be: they stay in the processor's cache


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk as merging sees it: configs, and the headers of its weights.

    `parts`: the network's weights and, if it has some, its channel projections, under the names that a merge writes them to, relative
    to `folder`. `config`: the network's. `about`: what deme.json says, {} without one. `placement`: of the projections. `noise`: what
    the scheduler's config says of the noise and of the prediction, {} without one.
    """

    folder: Path
    parts: Mapping[Path, Tensors]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    placement: str | None = None
    noise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def range(self) -> TimestepRange | None:
        """The timesteps that it was finetuned for, if it says so."""
        return TimestepRange(*self.about["range"]) if self.about.get("range") is not None else None


@dataclass(frozen=True)
class Expert:
    """A finetuned copy on disk, the timesteps it was finetuned for, and the content hash of its base where that is known."""

    folder: Path
    range: TimestepRange
    num_timesteps: int
    base: str | None

    @classmethod
    def read(cls, folder: Path) -> "Expert":
        """Read the description that training wrote beside the weights."""
        about = read_json(folder / "deme.json") if (folder / "deme.json").is_file() else {}
        if about.get("range") is None:
            raise BadConfig(
                f"{folder} is no expert: its deme.json names no timestep range\n"
                "train one with: deme train method=deme ranges.num_ranges=<N> expert=<i>"
            )
        return cls(
            folder, TimestepRange(*about["range"]), about["num_timesteps"], about.get("base")
        )


def order_experts(folders: Sequence[Path]) -> tuple[Expert, ...]:
    """Read the experts and sort them by range. Raises BadConfig unless they cover every timestep once and have one base."""
    experts = tuple(
        sorted((Expert.read(folder) for folder in folders), key=lambda expert: expert.range.low)
    )
    if not experts:
        raise BadConfig("the experts do not fit together: there are no experts\ngiven: none")
    misfit = _misfit([expert.range for expert in experts], experts[0].num_timesteps)
    if not misfit and len({expert.base for expert in experts} - {None}) > 1:
        misfit = "the experts do not fit together: their deme.json name different bases"
    if misfit:
        raise BadConfig(f"{misfit}\ngiven: {', '.join(map(str, folders))}")
    return experts


def _misfit(ranges: Sequence[TimestepRange], num_timesteps: int) -> str:
    """Return what keeps sorted ranges from covering every timestep once, or nothing."""
    try:
        check_partition(ranges, num_timesteps)
    except ValueError as error:
        return f"the experts do not fit together: {error}"
    return ""


@dataclass(frozen=True)
class MergePlan:
    """What is merged: a base and experts in range order (low noise first), or in the given order where they name no ranges."""

    base: Checkpoint
    experts: tuple[Checkpoint, ...]

    def tensors(self) -> Iterator[tuple[Path, str, str, Spec]]:
        """Yield file, name in the file, full name and spec of every tensor; projections come first."""
        for part in sorted(self.experts[0].parts, key=lambda part: part.name != PROJECTIONS):
            for tensor, spec in self.experts[0].parts[part].specs.items():
                yield part, tensor, full_name(part, tensor), spec

    def names(self) -> list[str]:
        """Return the full names of all tensors."""
        return [name for _, _, name, _ in self.tensors()]

    @property
    def folds(self) -> bool:
        """Whether projections can be multiplied into their layers once both are merged (METHOD 1.5)."""
        return self.experts[0].placement == "foldable"

    @property
    def bytes_read(self) -> int:
        """Bytes of all weights that are read."""
        return sum(
            _bytes(tensors.specs)
            for model in (self.base, *self.experts)
            for tensors in model.parts.values()
        )

    def bytes_written(self, dtype: torch.dtype | None = None, folded: bool = False) -> int:
        """Bytes of the merged weights; with `folded` projections are not among them."""
        return sum(
            math.prod(shape) * (dtype if dtype and kind.is_floating_point else kind).itemsize
            for part, _, _, (shape, kind) in self.tensors()
            if not (folded and part.name == PROJECTIONS)
        )

    def memory(self, merge: Merge, accumulate: torch.dtype) -> int:
        """Bytes that merging holds at once, by arithmetic: pieces, or whole tensors where a method wants them whole."""
        largest = max(math.prod(shape) for _, _, _, (shape, _) in self.tensors())
        at_once = min(largest, CHUNK_ELEMENTS) if merge.elementwise else largest
        return 2 * (len(self.experts) + 2) * at_once * accumulate.itemsize


def full_name(part: Path, tensor: str) -> str:
    """Return a tensor's name among all parts of a model: the network's own names, projections.<name> for a projection."""
    return f"projections.{tensor}" if part.name == PROJECTIONS else tensor


def plan_merge(
    base: Checkpoint, models: Sequence[Checkpoint], base_hash: str, of_checkpoints: bool = False
) -> MergePlan:
    """Compare ranges, bases, architectures, tensor names and shapes; raise BadConfig with all mismatches, else return the plan.

    `base_hash` is the content hash of the base, which experts recorded when they were trained. Models that name no range are
    taken in the given order. A base without projections is one with identity projections (METHOD 1.5). `of_checkpoints`: any
    models of one architecture will do.
    """
    models, problems = (tuple(models), []) if of_checkpoints else _ordered(models)
    if not models:
        raise BadConfig("there is nothing to merge: inputs.experts names no models")
    if not of_checkpoints:
        problems += [
            f"{model.folder} was finetuned from another base: its deme.json names {model.about['base']}, {base.folder} is {base_hash}"
            for model in models
            if model.about.get("base") not in (None, base_hash)
        ]
    if base.placement is None and models[0].placement is not None:
        base = _with_identity(base, models[0])
    everyone = (base, *models)
    for model in models:
        problems += _differences(base, model)
    placed = {str(model.folder): how for model in everyone if (how := model.placement)}
    if len(set(placed.values())) > 1:
        problems += [
            f"{folder} has channel projections of the placement {how}"
            for folder, how in placed.items()
        ]
    if problems:
        more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        count = f"{len(problems)} mismatch{'es' if len(problems) > 1 else ''}"
        raise BadConfig(
            f"these models cannot be merged, {count}:\n" + "\n".join(problems[:SHOWN]) + more
        )
    return MergePlan(base, models)


def _ordered(models: Sequence[Checkpoint]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    without = [model for model in models if model.range is None]
    if len(without) == len(models):
        return tuple(models), []
    if without:
        told = [
            f"{model.folder} names no timestep range in a deme.json, the others do"
            for model in without
        ]
        return tuple(models), told
    ordered = tuple(sorted(models, key=lambda model: model.range.low if model.range else 0))
    misfit = _misfit(
        [model.range for model in ordered if model.range], ordered[0].about["num_timesteps"]
    )
    return ordered, [
        f"{misfit} ({', '.join(str(model.folder) for model in models)})"
    ] if misfit else []


def _differences(base: Checkpoint, model: Checkpoint) -> Iterator[str]:
    """What keeps a model from being merged into the base: configs, files, tensors."""
    configs = (
        ("config.json", base.config, model.config),
        ("scheduler_config.json", base.noise, model.noise),
    )
    for file, ours, theirs in configs:
        for key in sorted(ours.keys() & theirs.keys()):
            if (key == "_class_name" or not key.startswith("_")) and _plain(ours[key]) != _plain(
                theirs[key]
            ):
                yield f"{model.folder} has {key}={theirs[key]} in its {file}, the base {ours[key]}"
    for part in sorted(base.parts.keys() | model.parts.keys()):
        if part.name == PROJECTIONS and base.placement != model.placement:
            continue  # told once, not tensor by tensor
        if part not in model.parts or part not in base.parts:
            yield f"{(base if part not in base.parts else model).folder} has no {part}"
            continue
        expected, found = base.parts[part].specs, model.parts[part].specs
        for tensor in sorted(expected.keys() | found.keys()):
            one, other = expected.get(tensor), found.get(tensor)
            if _kind(one) != _kind(other):
                yield f"{model.parts[part].path}: {tensor} is {_spec(other)}, in the base {_spec(one)}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _kind(spec: Spec | None) -> tuple[tuple[int, ...], bool] | None:
    """What must agree: precisions need not, a base in half precision has experts in single."""
    return (spec[0], spec[1].is_floating_point) if spec else None


def _spec(spec: Spec | None) -> str:
    return f"{list(spec[0])} {str(spec[1]).removeprefix('torch.')}" if spec else "missing"


def _bytes(specs: Mapping[str, Spec]) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs.values())


def _with_identity(base: Checkpoint, like: Checkpoint) -> Checkpoint:
    """Return the base with an identity projection for each of another model's."""
    more = {
        part: Identities(found) for part, found in like.parts.items() if part.name == PROJECTIONS
    }
    return replace(base, parts={**base.parts, **more}, placement=like.placement)


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
