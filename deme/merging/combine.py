"""A merge method with its settings; its weights may differ from tensor to tensor."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import fsum

import torch
from torch import Tensor

from deme.merging.methods import MergeMethod, Stream
from deme.merging.methods.linear import linear
from deme.merging.methods.weighted_sum import weighted_sum
from deme.system import BadConfig, did_you_mean

# Number of experts -> the weight of each: what a YAML file may name instead of numbers.
NAMED_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda count: 1 / count,
    "ones": lambda _: 1.0,
}


class Merge:
    """A merge method, its weights and other settings; `merge(experts, base, name)` merges a tensor.

    `weights`: a name of NAMED_WEIGHTS, or one number per expert from low to high noise; None for a
    method without weights. `by_name`: glob of tensor names -> one weight for all experts or one for
    each; the last glob that matches a tensor's name replaces `weights` for it. Names are those of
    the network's tensors; a projection is called projections.<its name>. `sum`: to which `weights`
    are scaled; those of `by_name` are not. Raises BadConfig.
    """

    def __init__(
        self,
        method: MergeMethod,
        num_experts: int,
        weights: object = None,
        by_name: Mapping[str, object] | None = None,
        sum: object = None,
        **settings: object,
    ) -> None:
        self.method, self.settings = method, settings
        self._prepared: Mapping[str, object] = {}
        weighted = "weights" in inspect.signature(method).parameters
        if not weighted and (weights is not None or by_name):
            raise BadConfig(f"merge={method.__name__} takes no weights")
        self.weights = check_weights(weights, num_experts) if weighted else None
        if sum is not None:
            self.weights = self._scaled(sum)
        self.by_name = {
            glob: check_weights(
                [given] * num_experts if isinstance(given, (int, float)) else given,
                num_experts,
                glob,
            )
            for glob, given in (by_name or {}).items()
        }

    def _scaled(self, total: object) -> list[float]:
        """Return the weights, scaled to a sum."""
        if self.weights is None or self.method.mean or self.method.of == "checkpoints":
            raise BadConfig(
                f"merge={self.method.__name__} has no weights of any sum, and merge.sum={total} is "
                "given\ntype: merge=uniform or merge=weighted_sum, or leave it out"
            )
        if not isinstance(total, (int, float)) or not math.isfinite(total):
            raise BadConfig(f"merge.sum must be a finite number, or null; got {total!r}")
        if fsum(self.weights) == 0:
            raise BadConfig(
                f"merge.sum={total}: the weights {self.weights} have the sum 0, whatever they are "
                "multiplied by\ntype: other merge.weights, or merge.sum=null"
            )
        return [weight * (total / fsum(self.weights)) for weight in self.weights]

    @property
    def is_weighted_sum(self) -> bool:
        """Whether the merge is base + sum_i w_i tau_i, linear in its weights."""
        return self.method is weighted_sum

    def weights_for(self, name: str) -> list[float] | None:
        """Return the merge weights of a tensor."""
        matching = [weights for glob, weights in self.by_name.items() if fnmatchcase(name, glob)]
        return matching[-1] if matching else self.weights

    def sum_weights(self, name: str) -> list[float] | None:
        """Return the weights of a merge that is a sum of models, without a base; None if not."""
        return self.weights_for(name) if self.method is linear else None

    def propagates_nan(self, name: str) -> bool:
        """Whether NaN or infinity in any model shows in the merge: a sum without a weight of 0."""
        weights = self.weights_for(name) or []
        if self.method is linear:
            return 0 not in weights
        return self.is_weighted_sum and 0 not in (1 - sum(weights), *weights)

    def check_names(self, names: Iterable[str]) -> None:
        """Raise BadConfig for a glob of `by_name` that matches none of the tensors."""
        known = list(names)
        for glob in self.by_name:
            if not any(fnmatchcase(name, glob) for name in known):
                blocks = sorted({name.partition(".")[0] for name in known})
                raise BadConfig(
                    f"weights_by_name: no tensor matches {glob}; {did_you_mean(glob, known)}"
                    f"names begin with {', '.join(blocks)}"
                )

    def try_out(self) -> None:
        """Merge a few numbers with all weights. Raises BadConfig for settings that fail."""
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
                f"merge={self.method.__name__} does not work with {settings}: {error}"
            ) from error

    def prepare(self, stream: Stream) -> None:
        """Let the method make its first pass over all tensors, if it has one."""
        if self.method.prepare is not None:
            self._prepared = self.method.prepare(stream, **self.settings)

    def __call__(self, experts: Sequence[Tensor], base: Tensor, name: str = "") -> Tensor:
        more: dict[str, object] = {"name": name} if self.method.named else {}
        if self.weights is not None:
            more["weights"] = self.weights_for(name)
        return self.method(experts, base, **self.settings, **self._prepared, **more)


def check_weights(given: object, num_experts: int, key: str = "merge.weights") -> list[float]:
    """Return the merge weights that a name or a list stands for. Raises BadConfig."""
    if isinstance(given, str) and given in NAMED_WEIGHTS:
        return [NAMED_WEIGHTS[given](num_experts)] * num_experts
    if not isinstance(given, (list, tuple)) or not all(type(w) in (int, float) for w in given):
        names = " or ".join(f"'{name}'" for name in NAMED_WEIGHTS)
        raise BadConfig(f"{key} must be {names} or a list of numbers, got {given!r}")
    if len(given) != num_experts or not all(math.isfinite(w) for w in given):
        raise BadConfig(
            f"{key} needs {num_experts} finite numbers, one per expert from low to high noise; "
            f"got {len(given)}: {list(given)}"
        )
    return [float(w) for w in given]


def merge_tensor(
    merge: Callable[[Sequence[Tensor], Tensor, str], Tensor],
    experts: Sequence[Tensor],
    base: Tensor,
    name: str = "",
    accumulate: torch.dtype = torch.float32,
) -> Tensor:
    """Return the merge of one tensor in at least `accumulate`; integer tensors stay the base's."""
    if not base.is_floating_point():
        return base
    precise = torch.promote_types(base.dtype, accumulate)
    return merge([expert.to(precise) for expert in experts], base.to(precise), name)
