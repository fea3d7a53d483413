"""A model in memory whose weights are set to the merge of the experts with given merge weights."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from deme.builders import build_merge
from deme.merging.live import LiveMerge
from deme.merging.plan import Checkpoint, MergePlan
from deme.merging.similarity import block_of
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_folder
from deme.system import BadConfig

GRANULARITIES: dict[str, Callable[[str], str]] = {
    "model": lambda _: "",
    "block": block_of,
    "tensor": lambda name: name,
}
UNET_PREFIX = "unet."  # of the network's parameters in our module; merging names them without


class LiveModel:
    """The model and its merge weights: N of them, or N for each block or tensor.

    `option`: a `merge` option; `granularity`: a key of GRANULARITIES.
    """

    def __init__(
        self, plan: MergePlan, option: Mapping[str, object], granularity: str, device: str
    ) -> None:
        self.option, self.granularity, self.num_experts = option, granularity, len(plan.experts)
        self.model: DenoisingModel = _read(plan.experts[0]).to(device)
        base = _read(plan.base)
        if self.model.projections is not None:
            base.add_projections(self.model.projections.placement)
        experts = [_state(_read(each).to(device)) for each in plan.experts]
        self.live = LiveMerge(_state(base.to(device)), experts, GRANULARITIES[granularity])
        self.live.share_with(self.tensors)
        self.merge = build_merge(*self.merge_settings(self.uniform), self.num_experts)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The model's parameters by the names that merging uses."""
        return {
            name.removeprefix(UNET_PREFIX): value for name, value in self.model.named_parameters()
        }

    @property
    def uniform(self) -> list[float]:
        """The same weight for all experts."""
        return [1 / self.num_experts] * self.num_experts * len(self.live.blocks)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Set the model to a merge, in place. Raises BadConfig for weights that the method
        refuses."""
        if self.merge.is_weighted_sum:
            self.live.merge(weights)
        else:
            self.live.merge_by(build_merge(*self.merge_settings(weights), self.num_experts))
        self.live.write_into(self.tensors)

    def set_expert(self, index: int) -> None:
        """Set the model to one expert, in place, whatever the merge method."""
        one_hot = [float(i == index) for i in range(self.num_experts)]
        self.live.merge(one_hot * len(self.live.blocks))
        self.live.write_into(self.tensors)

    def gradient(self) -> list[float]:
        """Return dL/dw of the merge weights for the gradients that the parameters hold."""
        return self.live.gradient({name: tensor.grad for name, tensor in self.tensors.items()})

    def check_linear(self) -> None:
        """Raise BadConfig unless the merge is base + sum_i w_i tau_i, with derivative tau_i."""
        if not self.merge.is_weighted_sum:
            raise BadConfig(
                f"merge={self.merge.method.__name__} has no gradient with respect to its weights\n"
                "type: merge=weighted_sum, or another search="
            )

    def merge_settings(
        self, weights: Sequence[float]
    ) -> tuple[dict[str, object], dict[str, list[float]]]:
        """Return the `merge` option and `weights_by_name` of `deme merge` for these weights."""
        rows = [
            list(weights[i : i + self.num_experts])
            for i in range(0, len(weights), self.num_experts)
        ]
        if len(rows) != len(self.live.blocks):
            raise BadConfig(
                f"{len(weights)} merge weights for {len(self.live.blocks)} x {self.num_experts}"
            )
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        names = [b if b in self.live.names else f"{b}.*" for b in self.live.blocks]
        by_name = dict(zip(names, rows, strict=True)) if self.granularity != "model" else {}
        return {**self.option, "weights": mean}, by_name


def _read(checkpoint: Checkpoint) -> DenoisingModel:
    return load_folder(str(checkpoint.folder), checkpoint.ema, advice="")  # given when opened


def _state(model: DenoisingModel) -> dict[str, Tensor]:
    return {
        name.removeprefix(UNET_PREFIX): value.detach() for name, value in model.state_dict().items()
    }
