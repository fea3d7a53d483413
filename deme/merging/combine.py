"""A merge method with its settings, as a function of a tensor's name: weights may differ from tensor to tensor."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from deme.merging.methods import MergeMethod, Stream
from deme.merging.methods.weighted_sum import weighted_sum
from deme.system.errors import BadConfig, did_you_mean

WORDS: dict[str, Callable[[int], float]] = {
    "uniform": lambda count: 1 / count,
    "ones": lambda _: 1.0,
}
"""What a yaml may say instead of numbers."""

ByName = Mapping[str, Any]  # glob of tensor names -> one weight for all experts, or one for each


class Merge:
    """A merge method, its merge weights and its other settings. `merge(experts, base, name)` merges one tensor.

    `weights`: a word of WORDS, or one number per expert from low to high noise; None for a method that takes none. `by_name`
    replaces them for tensors whose name matches a glob, where the last one that matches counts. Names are those of the
    network's own tensors; a projection is called projections.<its name>. Raises BadConfig.
    """

    def __init__(
        self,
        method: MergeMethod,
        num_experts: int,
        weights: Any = None,
        by_name: ByName | None = None,
        **settings: Any,
    ) -> None:
        self.method, self.settings = method, settings
        takes = inspect.signature(method).parameters
        self._prepared: dict[str, Any] = {}
        if "weights" not in takes:
            if weights is not None or by_name:
                raise BadConfig(f"merge={method.__name__} takes no weights")
            self.weights, self.by_name = None, {}
            return
        self.weights = weights_of(weights, num_experts)
        self.by_name = {
            glob: weights_of(
                [given] * num_experts if isinstance(given, (int, float)) else given,
                num_experts,
                glob,
            )
            for glob, given in (by_name or {}).items()
        }

    @property
    def elementwise(self) -> bool:
        """Whether pieces of a tensor may be merged apart."""
        return bool(self.method.elementwise)  # type: ignore[attr-defined]

    @property
    def of_checkpoints(self) -> bool:
        """Whether any models of one architecture will do, not only experts for ranges of timesteps."""
        return bool(self.method.of == "checkpoints")  # type: ignore[attr-defined]

    @property
    def is_weighted_sum(self) -> bool:
        """Whether the merge is base + sum_i w_i tau_i: linear in its weights."""
        return self.method is weighted_sum

    def weights_for(self, name: str) -> list[float] | None:
        """Return the merge weights of a tensor."""
        matching = [weights for glob, weights in self.by_name.items() if fnmatchcase(name, glob)]
        return matching[-1] if matching else self.weights

    def shows_all(self, name: str) -> bool:
        """Whether a value that is not finite in any model makes the merged one so: a weighted sum without a weight of 0."""
        weights = self.weights_for(name) or []
        return self.is_weighted_sum and 0 not in (1 - sum(weights), *weights)

    def check_names(self, names: Iterable[str]) -> None:
        """Raise BadConfig for a glob of `by_name` that matches none of the tensors."""
        known = list(names)
        for glob in self.by_name:
            if not any(fnmatchcase(name, glob) for name in known):
                blocks = sorted({name.partition(".")[0] for name in known})
                raise BadConfig(
                    f"weights_by_name: no tensor is called {glob}; {did_you_mean(glob, known)}"
                    f"names begin with {', '.join(blocks)}"
                )

    def try_out(self) -> None:
        """Merge a few numbers with all weights in use. Raises BadConfig for settings that the method refuses or cannot take."""
        draw = torch.Generator().manual_seed(0)
        count = len(self.weights) if self.weights is not None else 2
        base, *experts = torch.randn(count + 1, 8, generator=draw)
        trial = copy.copy(self)
        try:
            trial.prepare(lambda: iter([("", experts, base)]))
            for weights in [self.weights, *self.by_name.values()]:
                trial.weights, trial.by_name = weights, {}
                if not bool(torch.isfinite(trial(experts, base)).all()):
                    raise ValueError("the result is not finite")
        except (TypeError, ValueError, RuntimeError) as error:
            settings = ", ".join(f"merge.{key}={value}" for key, value in self.settings.items())
            raise BadConfig(
                f"merge={self.method.__name__} cannot take {settings}: {error}"
            ) from error

    def prepare(self, stream: Stream) -> None:
        """Let the method look at all tensors first, where it wants to."""
        if self.method.prepare is not None:  # type: ignore[attr-defined]
            self._prepared = self.method.prepare(stream, **self.settings)  # type: ignore[attr-defined]

    def __call__(self, experts: Sequence[Tensor], base: Tensor, name: str = "") -> Tensor:
        more: dict[str, Any] = {"name": name} if self.method.named else {}  # type: ignore[attr-defined]
        if self.weights is not None:
            more["weights"] = self.weights_for(name)
        return self.method(experts, base, **self.settings, **self._prepared, **more)


def weights_of(given: Any, num_experts: int, what: str = "merge.weights") -> list[float]:
    """Return the merge weights that a word or a list stands for. Raises BadConfig."""
    if isinstance(given, str) and given in WORDS:
        return [WORDS[given](num_experts)] * num_experts
    if not isinstance(given, (list, tuple)) or not all(type(w) in (int, float) for w in given):
        words = " or ".join(f"'{word}'" for word in WORDS)
        raise BadConfig(f"{what} must be {words} or a list of numbers, got {given!r}")
    if len(given) != num_experts or not all(math.isfinite(w) for w in given):
        raise BadConfig(
            f"{what} needs {num_experts} finite numbers, one per expert from low to high noise; "
            f"got {len(given)}: {list(given)}"
        )
    return [float(w) for w in given]


def merge_tensor(
    merge: Any,
    experts: Sequence[Tensor],
    base: Tensor,
    name: str = "",
    accumulate: torch.dtype = torch.float32,
) -> Tensor:
    """Return the merge of one tensor, in `accumulate` or better; integer tensors (counters, indices) stay the base's."""
    if not base.is_floating_point():
        return base
    precise = torch.promote_types(base.dtype, accumulate)
    merged: Tensor = merge([expert.to(precise) for expert in experts], base.to(precise), name)
    return merged
