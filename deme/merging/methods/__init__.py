"""Merge methods: one function and one file each, found by listing this folder (and conf/merge/).

A method is f(experts, base, **scalars) -> tensor, over one tensor of every expert, in float32 or better. Of the scalars,
`weights` is always a list of floats, one per expert.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor

MergeMethod = Callable[..., Tensor]
Function = TypeVar("Function", bound=MergeMethod)
Stream = Callable[
    [], Iterator[tuple[str, Sequence[Tensor], Tensor]]
]  # name, experts, base; one tensor in memory at a time
Prepare = Callable[
    ..., dict[str, Any]
]  # (stream, **scalars) -> further keyword arguments of the method


def merge_method(
    paper: str,
    elementwise: bool,
    named: bool = False,
    of: Literal["experts", "checkpoints"] = "experts",
    prepare: Prepare | None = None,
    mean: bool = False,
) -> Callable[[Function], Function]:
    """Mark a function as a merge method; what is said here becomes attributes of the function.

    `elementwise`: it may be applied to pieces of a tensor. `named`: it is also given `name`, the tensor's. `of`: "experts" were
    finetuned from one base, one per range of timesteps; "checkpoints" are any models of one architecture. `prepare`: a first
    pass over all floating-point tensors (float32 or better); it may call its stream several times. `mean`: weights are those of a
    mean, so none may be negative.
    """

    def mark(function: Function) -> Function:
        for name, value in {
            "paper": paper,
            "elementwise": elementwise,
            "named": named,
            "of": of,
            "mean": mean,
        }.items():
            setattr(function, name, value)
        function.prepare = prepare  # type: ignore[attr-defined]
        return function

    return mark
