"""Merge methods: one function and one file each, found by listing this folder (and conf/merge/).

A method is f(experts, base, **scalars) -> tensor, over one tensor of every expert, in float32 or better.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

MergeMethod = Callable[..., Tensor]
Function = TypeVar("Function", bound=MergeMethod)


def merge_method(paper: str, elementwise: bool) -> Callable[[Function], Function]:
    """Mark a function as a merge method. `elementwise`: it may be applied to pieces of a tensor."""

    def mark(function: Function) -> Function:
        function.paper = paper  # type: ignore[attr-defined]
        function.elementwise = elementwise  # type: ignore[attr-defined]
        return function

    return mark
