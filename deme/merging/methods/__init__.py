"""Merge methods: one function and one file each, found by listing this folder (and conf/merge/).

A method is f(experts, base, **scalars) -> tensor: it merges one tensor of all experts, in float32
or better. Of the scalars, `weights` is always a list of floats, one per expert.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, cast

from torch import Tensor

# Iterate over (name, experts, base), with one tensor in memory at a time; each call starts anew.
Stream = Callable[[], Iterator[tuple[str, Sequence[Tensor], Tensor]]]
# (stream, **scalars) -> further keyword arguments of the method
Prepare = Callable[..., Mapping[str, object]]


class MergeMethod(Protocol):
    """A function marked with `merge_method`, whose arguments are attributes of it."""

    __name__: str
    paper: str
    elementwise: bool
    named: bool
    of: Literal["experts", "checkpoints"]
    prepare: Prepare | None
    mean: bool
    equal_singular_values: bool

    def __call__(self, *tensors: object, **scalars: object) -> Tensor:
        """Merge one tensor: (experts, base, **scalars)."""


def merge_method(
    paper: str,
    elementwise: bool,
    named: bool = False,
    of: Literal["experts", "checkpoints"] = "experts",
    prepare: Prepare | None = None,
    mean: bool = False,
    equal_singular_values: bool = False,
) -> Callable[[Callable[..., Tensor]], MergeMethod]:
    """Mark a function as a merge method.

    `elementwise`: the method may be applied to pieces of a tensor.
    `named`: the method also takes `name`, the tensor's name.
    `of`: "experts" were finetuned from one base, one per timestep range; "checkpoints" are any
        models of one architecture.
    `prepare`: a first pass over all floating-point tensors (float32 or better); it may call its
        stream several times.
    `mean`: the weights are those of a weighted mean, so none may be negative.
    `equal_singular_values`: those of a merged change, so that its rank cannot be reduced.
    """

    def mark(function: Callable[..., Tensor]) -> MergeMethod:
        vars(function).update(
            paper=paper,
            elementwise=elementwise,
            named=named,
            of=of,
            prepare=prepare,
            mean=mean,
            equal_singular_values=equal_singular_values,
        )
        return cast(MergeMethod, function)

    return mark
