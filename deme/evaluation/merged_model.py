"""A model in memory whose weights are set to the merge of the experts with given merge weights."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from deme.builders import build_merge, load_merge_method
from deme.builders.adapters import adapters_of
from deme.merging.live import LiveMerge
from deme.merging.methods.weighted_sum import weighted_sum
from deme.merging.plan import Checkpoint, MergePlan
from deme.merging.similarity import block_of
from deme.models.adapter_sum import AdapterSum
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder
from deme.system import BadConfig

GRANULARITIES: dict[str, Callable[[str], str]] = {
    "model": lambda _: "",
    "block": block_of,
    "tensor": lambda name: name,
}


class LiveModel:
    """The model and its merge weights: N of them, or N for each block or tensor.

    `option`: a `merge` option; `granularity`: a key of GRANULARITIES. Of merge=linear, whose
    weights have the sum 1, the last weight follows from the others: a vector has N - 1 for each.
    """

    def __init__(
        self, plan: MergePlan, option: Mapping[str, object], granularity: str, device: str
    ) -> None:
        self.option, self.granularity, self.num_experts = option, granularity, len(plan.experts)
        method = load_merge_method(option)
        self.sums_to_one = method.of == "checkpoints"
        self.live: LiveMerge | AdapterSum
        self.tensors: dict[str, Tensor]  # what a merge changes, by the names that merging uses
        base = _read(plan.base)
        if (adapters := adapters_of(plan)) and method is weighted_sum:  # no copy of the base each
            self.model: DenoisingModel = base.to(device)
            self.model.sample_size = _size_of(plan.experts[0])
            summed = AdapterSum(base.network, adapters, GRANULARITIES[granularity])
            self.model.requires_grad_(False)
            self.live, self.tensors = summed, dict(summed.parameters)
        else:
            self.model = _read(plan.experts[0]).to(device)
            if self.model.projections is not None:
                base.add_projections(self.model.projections.placement)
            experts = [_state(_read(each).to(device)) for each in plan.experts]
            self.live = LiveMerge(_state(base.to(device)), experts, GRANULARITIES[granularity])
            self.tensors = {
                name.removeprefix(f"{self.model.part}."): value
                for name, value in self.model.named_parameters()
            }
            self.live.share_with(self.tensors)
        self.merge = build_merge(*self.merge_settings(self.uniform), self.num_experts)

    @property
    def num_free(self) -> int:
        """The merge weights of a block that a vector has."""
        return self.num_experts - self.sums_to_one

    @property
    def uniform(self) -> list[float]:
        """The same weight for all experts."""
        return [1 / self.num_experts] * self.num_free * len(self.live.blocks)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Set the model to a merge, in place. Raises BadConfig for weights that the method
        refuses."""
        if self.is_linear:  # of sum 1: the base cancels
            self.live.merge([w for row in self._rows(weights) for w in row])
        else:
            assert isinstance(self.live, LiveMerge)
            self.live.merge_by(build_merge(*self.merge_settings(weights), self.num_experts))
        self._show()

    def set_base(self) -> None:
        """Set the model to the base, in place."""
        self.live.merge([0.0] * self.num_experts * len(self.live.blocks))
        self._show()

    def set_expert(self, index: int) -> None:
        """Set the model to one expert, in place, whatever the merge method."""
        one_hot = [float(i == index) for i in range(self.num_experts)]
        self.live.merge(one_hot * len(self.live.blocks))
        self._show()

    def _show(self) -> None:
        if isinstance(self.live, LiveMerge):
            self.live.write_into(self.tensors)

    def differentiate(self, wanted: bool) -> None:
        """Compute gradients of what a merge changes, or of nothing; forget the gradients so far."""
        for tensor in self.tensors.values():
            tensor.requires_grad_(wanted)
            tensor.grad = None

    def gradient(self) -> list[float]:
        """Return dL/dw of the merge weights for the gradients that the parameters hold."""
        found = self.live.gradient({name: tensor.grad for name, tensor in self.tensors.items()})
        if not self.sums_to_one:
            return found
        rows = [found[i : i + self.num_experts] for i in range(0, len(found), self.num_experts)]
        return [slope - row[-1] for row in rows for slope in row[:-1]]

    @property
    def is_linear(self) -> bool:
        """Whether the merge is base + sum_i w_i tau_i, with derivative tau_i."""
        return self.merge.is_weighted_sum or self.sums_to_one

    def check_linear(self) -> None:
        """Raise BadConfig unless the merge has a derivative with respect to its weights."""
        if not self.is_linear:
            raise BadConfig(
                f"merge={self.merge.method.__name__} has no gradient with respect to its weights\n"
                "type: merge=weighted_sum, or another search="
            )

    def merge_settings(
        self, weights: Sequence[float]
    ) -> tuple[dict[str, object], dict[str, list[float]]]:
        """Return the `merge` option and `weights_by_name` of `deme merge` for these weights."""
        rows = self._rows(weights)
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        names = [b if b in self.live.names else f"{b}.*" for b in self.live.blocks]
        by_name = dict(zip(names, rows, strict=True)) if self.granularity != "model" else {}
        return {**self.option, "weights": mean}, by_name

    def _rows(self, weights: Sequence[float]) -> list[list[float]]:
        """Return all N merge weights of each block of a vector."""
        size, blocks = self.num_free, len(self.live.blocks)
        if len(weights) != size * blocks:
            raise BadConfig(f"{len(weights)} merge weights for {blocks} x {size}")
        rows = [list(weights[i * size : (i + 1) * size]) for i in range(blocks)]
        return [[*row, 1 - sum(row)] if self.sums_to_one else row for row in rows]


def _read(checkpoint: Checkpoint) -> DenoisingModel:
    model = load_folder(str(checkpoint.folder), checkpoint.ema, advice="")  # given when opened
    model.fuse_adapter()
    return model


def _size_of(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Return the size of the images of a model, as its deme.json says, None if it does not."""
    stated = checkpoint.about.get("sample_size")
    return (stated[0], stated[1]) if stated is not None else None


def _state(model: DenoisingModel) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{model.part}."): value.detach()
        for name, value in model.state_dict().items()
    }
