"""Merge named tensors: streamed from disk to disk, or from memory into a live model."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from deme.merging.plan import MergePlan, identity_like
from deme.tensors import TensorFile, Tensors, write_stream

Combine = Callable[[Sequence[Tensor], Tensor], Tensor]


def merge_tensor(combine: Combine, experts: Sequence[Tensor], base: Tensor) -> Tensor:
    """Apply `combine` in float32 or better and cast back; integer tensors (counters, indices) stay the base's."""
    if not base.is_floating_point():
        return base
    precise = torch.promote_types(base.dtype, torch.float32)
    return combine([expert.to(precise) for expert in experts], base.to(precise)).to(base.dtype)


def merge_folder(plan: MergePlan, combine: Combine, folder: Path) -> None:
    """Write the merged weights into `folder`, one tensor in memory at a time; the configs are the experts'."""
    for config in plan.experts[0].folder.rglob("*.json"):
        target = folder / config.relative_to(plan.experts[0].folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config, target)
    for name in plan.files:
        files = [TensorFile(expert.folder / name) for expert in plan.experts]
        base = plan.open_base(name)

        def merged(base: Tensors | None = base, files: list[TensorFile] = files) -> Iterator[tuple[str, Tensor]]:
            for tensor, (shape, _) in files[0].specs.items():
                start = identity_like(shape) if base is None else base.read(tensor)
                tensors = [file.read(tensor) for file in files]
                start = start.to(torch.promote_types(start.dtype, tensors[0].dtype))  # a base in half precision
                yield tensor, merge_tensor(combine, tensors, start).to(tensors[0].dtype)

        write_stream(folder / name, files[0].specs, merged())


def merge_into(
    target: dict[str, Tensor], combine: Combine, experts: Sequence[dict[str, Tensor]], base: dict[str, Tensor]
) -> None:
    """Overwrite the tensors of a live model's state with the merge of states of the same names."""
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(merge_tensor(combine, [expert[name] for expert in experts], base[name]))
