"""LoRA (Hu et al. 2022): a low-rank change of some layers of a frozen network, through peft.

A layer with weight W answers as one with W + (alpha / rank) B A. Every training starts from the
same A, which follows from the layer's name alone, and from B = 0, so that experts differ in what
they learned and not in where they began.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from deme.diffusion import EMPTY_CONDITION, Condition, bind_condition, generator
from deme.system import BadConfig, optional_module

if TYPE_CHECKING:
    from deme.models.denoiser import DenoisingModel

NAME = "default"  # peft's, of the only adapter of a network
FACTOR = re.compile(rf"(.+)\.lora_([AB])\.{NAME}\.weight")  # of a parameter of peft's layers
LAYERS = (nn.Linear, nn.Conv2d)
BASE_DTYPES = (None, "bfloat16", "float16")


@dataclass(frozen=True)
class LoRA:
    """What an adapter is: its rank, its alpha (None: the rank), and the layers that it changes.

    `targets` are ends of the names of layers, such as to_q or ff.net.2, or whole names; None: those
    of the model's family. `base_dtype`: of the base's linear layers and convolutions in training;
    None: as they are. Raises BadConfig.
    """

    rank: int = 16
    alpha: float | None = None
    targets: Sequence[str] | None = None
    base_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadConfig(f"adapter.rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise BadConfig(f"adapter.alpha must be null (the rank) or positive, got {self.alpha}")
        if self.base_dtype not in BASE_DTYPES:
            raise BadConfig(
                f"adapter.base_dtype={self.base_dtype} is unknown; "
                f"allowed: null, {', '.join(filter(None, BASE_DTYPES))}"
            )

    @property
    def scale(self) -> float:
        """alpha / rank, by which B A is multiplied."""
        return (self.alpha if self.alpha is not None else self.rank) / self.rank


def matching_layers(
    network: nn.Module, targets: Sequence[str], all_needed: bool = True
) -> list[str]:
    """Return the names of the linear and convolution layers that `targets` stand for.

    Raises BadConfig for a target that names none, unless not `all_needed`, and for no layer at all.
    """
    names = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
    found: dict[str, None] = {}
    for target in targets:
        ends = [name for name in names if name == target or name.endswith(f".{target}")]
        if not ends and all_needed:
            last = sorted({re.sub(r"^.*\.(?=[^\d.])", "", name) for name in names})
            raise BadConfig(
                f"adapter.targets: no layer's name ends with {target!r}; "
                f"layers end with {', '.join(last[:20])}"
            )
        found |= dict.fromkeys(ends)
    if not found:
        raise BadConfig(
            f"the network has none of the layers {', '.join(targets)}\n"
            "type: adapter.targets=[<ends of names of layers>]"
        )
    return [name for name in names if name in found]


def check_rank(network: nn.Module, lora: LoRA, layers: Sequence[str]) -> None:
    """Raise BadConfig for a rank above that of the weight of a layer."""
    for name in layers:
        layer = network.get_submodule(name)
        weight = cast(Tensor, layer.weight)
        most = min(len(weight), weight[0].numel())
        if lora.rank > most:
            raise BadConfig(
                f"adapter.rank={lora.rank} is above {most}, the rank that layer {name} can have at "
                f"most\ntype: adapter.rank={most}, or adapter.targets=[<larger layers>]"
            )


def add_lora_layers(network: nn.Module, lora: LoRA, layers: Sequence[str]) -> None:
    """Freeze a network and add an adapter to some of its layers, in place.

    Raises MissingInput without peft.
    """
    peft = optional_module("peft", "makes and trains LoRA adapters", "lora")
    made = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.scale * lora.rank, target_modules=list(layers)
    )
    network.requires_grad_(False)
    peft.inject_adapter_in_model(made, network, adapter_name=NAME)
    with torch.no_grad():
        for name, parameter in factors(network).items():
            if ".lora_B." in name:
                parameter.zero_()
                continue
            bound = 1 / math.sqrt(parameter[0].numel())  # as peft's, and as nn.Linear's
            draws = torch.rand(parameter.shape, generator=generator("lora", name), device="cpu")
            parameter.copy_((2 * draws - 1) * bound)
    if lora.base_dtype is not None:
        hold_base(network, getattr(torch, lora.base_dtype))


def hold_base(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of linear layers and convolutions that are not trained, in place.

    Under autocast to this dtype, which casts them at every call, predictions and gradients stay the
    same bit for bit. Without autocast these layers compute in `dtype` and return float32.
    """

    def cast(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.to(dtype) for value in given)

    def restored(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out if torch.is_autocast_enabled(out.device.type) else out.float()

    for part in network.modules():
        if isinstance(part, LAYERS) and not any(p.requires_grad for p in part.parameters()):
            part.to(dtype)
            part.register_forward_pre_hook(cast)
            part.register_forward_hook(restored)


def factors(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the factors of a network's adapter, named <layer>.lora_A.weight and ...lora_B.weight.

    It is empty for a network without an adapter.
    """
    found = {}
    for name, parameter in network.named_parameters():
        if match := FACTOR.fullmatch(name):
            found[f"{match[1]}.lora_{match[2]}.weight"] = parameter
    return found


@contextlib.contextmanager
def adapter_disabled(layers: Sequence[Any]) -> Iterator[None]:
    """Compute without the adapters of `layers` in the block, bit for bit as before they had any."""
    try:
        for layer in layers:
            # not peft's enable_adapters(), which also changes what has gradients
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@torch.no_grad()
def fuse_lora(network: nn.Module) -> None:
    """Add an adapter's change to the weights, in place, and take the adapter out."""
    adapted = {n: part for n, part in network.named_modules() if hasattr(part, "_disable_adapters")}
    for name, layer in adapted.items():
        plain: Any = cast(Any, layer).get_base_layer()
        plain.weight.add_(cast(Any, layer).get_delta_weight(NAME).to(plain.weight))
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, plain)
    network.requires_grad_(True)


class BaseOfAdapter(nn.Module):
    """The base of a model that has an adapter, as a network of its own; its weights are shared.

    It is the teacher of an adapter's training: no second copy of the base is in memory. It has no
    parameters that could be trained or moved; `state_dict` is the model's without the adapter.
    """

    def __init__(self, model: "DenoisingModel") -> None:
        super().__init__()
        self._model = [model]  # in a list, so that it is no submodule
        self._layers = [m for m in model.network.modules() if hasattr(m, "_disable_adapters")]
        self._dropouts = [
            m for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d) and m.p > 0
        ]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        """Return the prediction of the base."""
        (model,), modes = self._model, [part.training for part in self._dropouts]
        for part in self._dropouts:
            part.training = False
        try:
            with adapter_disabled(self._layers):
                return bind_condition(model.not_compiled, condition)(x_t, t)
        finally:
            for part, trains in zip(self._dropouts, modes, strict=True):
                part.training = trains

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the weights of the base."""
        state = self._model[0].network.state_dict()
        return {name: value for name, value in state.items() if FACTOR.fullmatch(name) is None}
