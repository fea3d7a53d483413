"""Check from headers alone that experts can be merged, and list everything that is wrong at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deme.errors import BadConfig
from deme.files import read_json
from deme.ranges import TimestepRange, check_partition
from deme.tensors import Spec, TensorFile, Tensors

PROJECTIONS = "projections.safetensors"

Opener = Callable[[Path], Tensors | None]  # of a weight file, named relative to a model folder; None: no projections


@dataclass(frozen=True)
class Expert:
    """A finetuned copy on disk and the timesteps it was finetuned for."""

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
        return cls(folder, TimestepRange(*about["range"]), about["num_timesteps"], about.get("base"))


@dataclass(frozen=True)
class MergePlan:
    """Experts in range order (low noise first) and the weight files, relative to a model folder, that get merged."""

    base: Path
    open_base: Opener
    experts: tuple[Expert, ...]
    files: tuple[Path, ...]


def order_experts(folders: Sequence[Path]) -> tuple[Expert, ...]:
    """Read the experts and sort them by range. Raises BadConfig unless they cover every timestep once."""
    experts = tuple(sorted((Expert.read(folder) for folder in folders), key=lambda expert: expert.range.low))
    try:
        if not experts:
            raise ValueError("there are no experts")
        check_partition([expert.range for expert in experts], experts[0].num_timesteps)
    except ValueError as error:
        raise BadConfig(
            f"the experts do not fit together: {error}\ngiven: {', '.join(map(str, folders)) or 'none'}"
        ) from error
    return experts


def check_weights(weights: Sequence[float], num_experts: int) -> None:
    """Raise BadConfig unless there is one finite merge weight per expert."""
    if len(weights) != num_experts or not all(math.isfinite(w) for w in weights):
        raise BadConfig(
            f"merge.weights needs {num_experts} finite numbers, one per expert from low to high noise; "
            f"got {len(weights)}: {list(weights)}"
        )


def plan_merge(base: Path, open_base: Opener, folders: Sequence[Path], base_hash: str) -> MergePlan:
    """Compare ranges, bases, tensor names and shapes; raise BadConfig with all mismatches, else return the plan.

    `open_base` finds what an expert's weight file is in the base, whose layout may be another. `base_hash` is the content hash
    of `base`, which every expert recorded when it was trained. A base without projections is one with identity projections
    (METHOD 1.5).
    """
    experts = order_experts(folders)
    problems = [
        f"{expert.folder} was finetuned from another base: its deme.json names {expert.base}, {base} is {base_hash}"
        for expert in experts
        if expert.base != base_hash
    ]
    weight_files = [sorted(p.relative_to(e.folder) for p in e.folder.rglob("*.safetensors")) for e in experts]
    placed = {folder: how for folder in (base, *(e.folder for e in experts)) if (how := _placement(folder))}
    if len(set(placed.values())) > 1:
        problems += [f"{folder} has channel projections of the placement {how}" for folder, how in placed.items()]
    for expert, files in zip(experts, weight_files, strict=True):
        if files != weight_files[0]:
            problems.append(
                f"{expert.folder} holds {[str(f) for f in files]}, {experts[0].folder} "
                f"{[str(f) for f in weight_files[0]]}"
            )
    if not problems:
        for name in weight_files[0]:
            expected = (open_base(name) or TensorFile(experts[0].folder / name)).specs
            for expert in experts:
                found = TensorFile(expert.folder / name).specs
                problems += [
                    f"{expert.folder / name}: {tensor} is {_spec(found.get(tensor))}, in the base {_spec(expected.get(tensor))}"
                    for tensor in sorted(expected.keys() | found.keys())
                    if _shape(expected.get(tensor)) != _shape(found.get(tensor))
                ]
    if problems:
        raise BadConfig(f"these models cannot be merged, {len(problems)} mismatches:\n" + "\n".join(problems[:20]))
    return MergePlan(base, open_base, experts, tuple(weight_files[0]))


def _placement(folder: Path) -> str | None:
    """Return how the projections of a model folder are placed, None without any; the paper's way unless it says otherwise."""
    for file in folder.rglob(PROJECTIONS):
        told = file.with_suffix(".json")
        return str(read_json(told)["placement"]) if told.is_file() else "blocks"
    return None


def _shape(spec: Spec | None) -> tuple[int, ...] | None:
    return spec[0] if spec else None  # the type may differ: a base in half precision has experts in single


def _spec(spec: Spec | None) -> str:
    return f"{list(spec[0])} {str(spec[1]).removeprefix('torch.')}" if spec else "missing"


def identity_like(shape: tuple[int, ...]) -> torch.Tensor:
    """Return the identity projection [C, C, 1, 1]."""
    return torch.eye(shape[0]).reshape(shape)
