"""A merge in memory: the next weight vector costs one pass over the parameters, from the stored base."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from deme.merging.combine import Merge, merge_tensor

REFRESH = 64  # changes of one expert's weights, until the sum is made anew from the base
CHUNK_ELEMENTS = 1 << 20  # numbers whose products are summed in float32 before float64 takes over


class LiveMerge:
    """The merge of N experts, base + sum_i w_i tau_i, kept up to date in one flat tensor; weights may differ from block to block.

    `base`, `experts`: named tensors, all in float32 and on one device; integers are left to the base. `block_of` names the
    block of a tensor: each block has weights of its own. Weights of 0 give the base bit for bit, in a block, too. Every merge is made
    from the base: its bits follow from the weights alone, not from those before, so a killed search goes on with the same
    scores. |error| <= (N + 3) 2^-24 (|theta| + sum_i |w_i| (|theta_i| + |theta|)). Memory: N + 2 models.

    `incremental`: where the weights of a single expert change, add its task vector, which is quicker; at least every REFRESH-th
    merge is made from the base, so what rounding adds is at most REFRESH 2^-23 of the largest |theta| + |w_i tau_i| on the way.
    """

    def __init__(
        self,
        base: Mapping[str, Tensor],
        experts: Sequence[Mapping[str, Tensor]],
        block_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        names = [name for name, tensor in base.items() if tensor.is_floating_point()]
        self.blocks = list(dict.fromkeys(map(block_of, names)))
        self._places: dict[str, tuple[slice, torch.Size]] = {}
        self._segments: list[slice] = []
        end = 0
        for block in self.blocks:
            begin = end
            for name in names:
                if block_of(name) == block:
                    self._places[name] = (slice(end, end + base[name].numel()), base[name].shape)
                    end += base[name].numel()
            self._segments.append(slice(begin, end))
        self.names = set(names)
        self.base = self._flat(base)
        self.vectors = torch.empty(len(experts), end, device=self.base.device)
        for vector, expert in zip(self.vectors, experts, strict=True):
            torch.sub(self._flat(expert), self.base, out=vector)
        self.merged = self.base.clone()
        self._weights = torch.zeros(len(self.blocks), len(experts), dtype=torch.float64)
        self.incremental = False
        self._added = 0  # task vectors, since all was made from the base

    def _flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensors[name].detach().reshape(-1).float() for name in self._places])

    def merge(self, weights: Sequence[float]) -> None:
        """Merge with weights [blocks x N], block by block and expert by expert."""
        new = torch.tensor(list(weights), dtype=torch.float64).reshape(self._weights.shape)
        changed = (new != self._weights).any(1).tolist()
        (experts,) = torch.where((new != self._weights).any(0))
        if (
            self.incremental
            and len(experts) == 1
            and self._added + 1 < REFRESH
            and bool((new != 0).any())
        ):
            self._add(int(experts[0]), new)
            return
        if self._added:
            changed, self._added = [True] * len(changed), 0  # what was added to is made anew, too
        for segment, row, differs in zip(
            self._segments, new.float().to(self.base.device), changed, strict=True
        ):
            if differs and bool((row != 0).any()):
                torch.addmv(
                    self.base[segment], self.vectors[:, segment].T, row, out=self.merged[segment]
                )
            elif differs:  # adding 0 would lose the sign of -0
                self.merged[segment].copy_(self.base[segment])
        self._weights = new

    def _add(self, expert: int, new: Tensor) -> None:
        for segment, by in zip(
            self._segments, (new - self._weights)[:, expert].tolist(), strict=True
        ):
            self.merged[segment].add_(self.vectors[expert, segment], alpha=by)
        self._weights, self._added = new, self._added + 1

    def merge_by(self, merge: Merge) -> None:
        """Merge by any method, tensor by tensor."""

        def stream():  # type: ignore[no-untyped-def]
            for name, (place, shape) in self._places.items():
                base = self.base[place].reshape(shape)
                yield name, [base + vector[place].reshape(shape) for vector in self.vectors], base

        merge.prepare(stream)
        for name, experts, base in stream():
            place, _ = self._places[name]
            self.merged[place] = merge_tensor(merge, experts, base, name).reshape(-1)
        self._weights = torch.full_like(self._weights, torch.nan)  # unlike any other
        self._added = REFRESH  # the next merge is made from the base

    def share_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the tensors of a live model, named as in its state, parts of `merged`: they change with it."""
        for name, (place, shape) in self._places.items():
            tensors[name].data = self.merged[place].reshape(shape)

    def write_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the merge into tensors that are no parts of `merged` (any more: a model can be moved or laid out anew)."""
        with torch.no_grad():
            for name, (place, shape) in self._places.items():
                if tensors[name].data_ptr() != self.merged[place].data_ptr():
                    tensors[name].copy_(self.merged[place].reshape(shape))

    def gradient(self, gradients: Mapping[str, Tensor | None]) -> list[float]:
        """Return dL/dw [blocks x N] for dL/dtheta at the merge: scalar products with the task vectors (METHOD 3.1)."""
        found = torch.zeros(len(self.blocks), len(self.vectors), dtype=torch.float64)
        for name, (place, _) in self._places.items():
            gradient = gradients.get(name)
            if gradient is None:
                continue
            row = next(i for i, segment in enumerate(self._segments) if place.start < segment.stop)
            flat = gradient.detach().reshape(-1).to(self.vectors.dtype)
            for start in range(0, len(flat), CHUNK_ELEMENTS):
                part = flat[start : start + CHUNK_ELEMENTS]
                begin = place.start + start
                found[row] += (
                    torch.mv(self.vectors[:, begin : begin + len(part)], part).double().cpu()
                )
        return found.flatten().tolist()
