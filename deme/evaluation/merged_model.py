"""A model in memory that becomes the merge of the experts with given weights."""

from collections.abc import Callable, Sequence
from typing import Any

from deme.commands.merge import merge_of
from deme.merging.live import LiveMerge
from deme.merging.plan import MergePlan
from deme.merging.similarity import block_of
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load_pretrained
from deme.system.errors import BadConfig

GRANULARITIES: dict[str, Callable[[str], str]] = {
    "model": lambda _: "",
    "block": block_of,
    "tensor": lambda name: name,
}
OWN_PREFIX = "unet."  # of the network's tensors in our module; merging knows them without


class LiveModel:
    """The model and its merge weights: N of them, or N for each block or tensor, as the config's `granularity` says."""

    def __init__(self, config: dict[str, Any], plan: MergePlan, device: str) -> None:
        if config["granularity"] not in list(GRANULARITIES):
            raise BadConfig(
                f"granularity must be one of {', '.join(GRANULARITIES)}; got {config['granularity']!r}"
            )
        self.config, self.num_experts = config, len(plan.experts)
        self.model: DenoisingModel = load_pretrained(str(plan.experts[0].folder)).to(device)
        base = load_pretrained(str(plan.base.folder))
        if self.model.projections is not None:
            base.add_projections(self.model.projections.placement)
        experts = [
            _state(load_pretrained(str(expert.folder)).to(device)) for expert in plan.experts
        ]
        self.live = LiveMerge(
            _state(base.to(device)), experts, GRANULARITIES[config["granularity"]]
        )
        self.live.share_with(self.tensors)
        self.merge = merge_of(
            {**config, **self.settings(self.uniform)}, self.num_experts
        )  # of equal weights

    @property
    def tensors(self) -> dict[str, Any]:
        """The model's parameters by the names that merging knows."""
        return {
            name.removeprefix(OWN_PREFIX): value for name, value in self.model.named_parameters()
        }

    @property
    def uniform(self) -> list[float]:
        """The same weight for all."""
        return [1 / self.num_experts] * self.num_experts * len(self.live.blocks)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Overwrite the model's weights, wherever they lie by now. Raises BadConfig for what the merge method refuses."""
        if self.merge.is_weighted_sum:
            self.live.merge(weights)
        else:
            self.live.merge_by(
                merge_of({**self.config, **self.settings(weights)}, self.num_experts)
            )
        self.live.write_into(self.tensors)

    def set_expert(self, index: int) -> None:
        """Overwrite the model's weights by one expert's, whatever the merge method makes of one weight of 1."""
        self.live.merge(
            [float(i == index) for i in range(self.num_experts)] * len(self.live.blocks)
        )
        self.live.write_into(self.tensors)

    def check_linear(self) -> None:
        """Raise BadConfig unless the merge is base + sum_i w_i tau_i, whose derivative by w_i is tau_i."""
        if not self.merge.is_weighted_sum:
            raise BadConfig(
                f"merge={self.merge.method.__name__} has no gradient by its weights here\ntype: merge=weighted_sum, or another search="
            )

    def settings(self, weights: Sequence[float]) -> dict[str, Any]:
        """Return the same as keys of `deme merge`: {merge: {..., weights}, weights_by_name}."""
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
        by_name = (
            dict(zip(names, rows, strict=True)) if self.config["granularity"] != "model" else {}
        )
        return {"merge": {**self.config["merge"], "weights": mean}, "weights_by_name": by_name}


def _state(model: DenoisingModel) -> dict[str, Any]:
    return {
        name.removeprefix(OWN_PREFIX): value.detach() for name, value in model.state_dict().items()
    }
