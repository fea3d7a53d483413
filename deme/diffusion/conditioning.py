"""The condition of a network: tensors by argument name, one row per image; often empty."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]  # name of the network's argument -> [B, ...]
Network = Callable[
    ..., Tensor
]  # (x_t [B, C, H, W], t [B]) or (x_t, t, condition) -> prediction [B, C, H, W]

# of inpainting networks: the mask [B, 1, h, w], and the latents of the image without what is masked
MASK, MASKED_LATENTS = "mask", "masked_latents"
TEXT = "encoder_hidden_states"  # text embeddings of a UNet2DConditionModel, [B, tokens, width]
EMPTY_CONDITION: Condition = MappingProxyType({})


def bind_condition(network: Network, condition: Condition) -> Network:
    """Return the network under `condition`, as a function of x_t and t alone."""
    return partial(network, condition=condition) if condition else network


def rows_of(condition: Condition, rows: Tensor | slice | list[int]) -> Condition:
    """Return the condition of some of the images."""
    return {name: value[rows] for name, value in condition.items()}


def moved(condition: Condition, device: torch.device | str) -> Condition:
    """Return the condition on a device."""
    return {name: value.to(device) for name, value in condition.items()}


def joined(parts: Sequence[Condition]) -> Condition:
    """Return the conditions of several batches as that of one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def repeated(condition: Condition, count: int) -> Condition:
    """Return a condition of one row for `count` images."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}
