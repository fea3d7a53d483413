"""A merge in memory: another weight vector costs one pass over the parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from deme.merging.combine import Merge, merge_tensor

REFRESH = 64  # merges from the one before, until the next is computed from the base again
CHUNK_ELEMENTS = 1 << 20  # products that are summed in float32; their sums in float64


class LiveMerge:
    """The merge of N experts, base + sum_i w_i tau_i, in one flat tensor `merged`.

    `base`, `experts`: named tensors in float32 on one device; integer tensors are not merged.
    `block_of` names the block of a tensor: every block has its own weights. Weights of 0 give the
    base bit for bit, also in a single block. Every merge is computed from the base: its bits are a
    function of the weights alone, so a resumed search gets the same scores.
    |error| <= (N + 3) 2^-24 (|theta| + sum_i |w_i| (|theta_i| + |theta|)). Memory: N + 2 models.

    `incremental`: if only the weights of one expert change, add its task vector to the merge
    before, which is faster. At least every REFRESH-th merge is computed from the base, so the
    additional rounding error is at most REFRESH 2^-23 of the largest |theta| + |w_i tau_i| on the
    way.
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
        self._added = 0  # merges since the last one that was computed from the base

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
            changed, self._added = [True] * len(changed), 0
        for segment, row, differs in zip(
            self._segments, new.float().to(self.base.device), changed, strict=True
        ):
            if differs and bool((row != 0).any()):
                torch.addmv(
                    self.base[segment], self.vectors[:, segment].T, row, out=self.merged[segment]
                )
            elif differs:  # adding 0 would change -0
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

        def stream() -> Iterator[tuple[str, list[Tensor], Tensor]]:
            for name, (place, shape) in self._places.items():
                base = self.base[place].reshape(shape)
                yield name, [base + vector[place].reshape(shape) for vector in self.vectors], base

        merge.prepare(stream)
        for name, experts, base in stream():
            place, _ = self._places[name]
            self.merged[place] = merge_tensor(merge, experts, base, name).reshape(-1)
        self._weights = torch.full_like(self._weights, torch.nan)  # differs from every other
        self._added = REFRESH  # the next merge is computed from the base

    def share_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the parameters of a model views of `merged`, so that they change with it."""
        for name, (place, shape) in self._places.items():
            tensors[name].data = self.merged[place].reshape(shape)

    def write_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the merge into those parameters that are no views of `merged` (any more)."""
        with torch.no_grad():
            for name, (place, shape) in self._places.items():
                if tensors[name].data_ptr() != self.merged[place].data_ptr():
                    tensors[name].copy_(self.merged[place].reshape(shape))

    def gradient(self, gradients: Mapping[str, Tensor | None]) -> list[float]:
        """Return dL/dw [blocks x N] = <dL/dtheta, tau> of dL/dtheta at the merge, by name."""
        found = torch.zeros(len(self.blocks), len(self.vectors), dtype=torch.float64)
        for name, (place, _) in self._places.items():
            gradient = gradients.get(name)
            if gradient is None:
                continue
            row = next(i for i, segment in enumerate(self._segments) if place.start < segment.stop)
            flat = gradient.detach().reshape(-1).to(self.vectors.dtype)
            vectors = self.vectors[:, place].split(CHUNK_ELEMENTS, dim=1)
            for part, of_part in zip(flat.split(CHUNK_ELEMENTS), vectors, strict=True):
                found[row] += torch.mv(of_part, part).double().cpu()
        return found.flatten().tolist()
