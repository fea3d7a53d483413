"""A model whose parameters are shared out over the processes of a training: torch's fully_shard.

A parameter is then a DTensor, of which each process holds a part. Checkpoints and weights hold
whole tensors, so that they do not depend on the number of processes.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from deme.models.denoiser import DenoisingModel


def shard(model: DenoisingModel, device: str, num_processes: int) -> None:
    """Share out the parameters of a model, in place.

    Those of a block of the UNet are whole while it computes. All processes call it.
    """
    mesh = init_device_mesh(device.partition(":")[0], (num_processes,))
    for child in model.unet.children():
        for block in child if isinstance(child, nn.ModuleList) else [child]:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has shared out the model."""
    return isinstance(model, FSDPModule)


def whole(values: Any) -> Any:
    """Return nested containers with whole tensors, on the CPU, for shared-out ones.

    All processes call it.
    """
    return tree_map(
        lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, values
    )


def shared_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor shared out as `like` is, if it is."""
    if not isinstance(like, DTensor):
        return value
    found = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return cast(Tensor, found)


def share_out_checkpoint(
    checkpoint: dict[str, Any], model: nn.Module, parameters: Sequence[Tensor]
) -> None:
    """Share out the whole tensors of a checkpoint as those of `model` are, in place.

    `parameters`: those of the optimizer, in its order; the model's come first.
    """
    state = checkpoint["state_dict"]
    for name, parameter in model.named_parameters():
        key = f"model.{name}"
        state[key] = shared_out(state[key], parameter)
    for optimizer in checkpoint["optimizer_states"]:
        for index, values in optimizer["state"].items():
            like = parameters[index]
            values |= {
                name: shared_out(value, like)
                for name, value in values.items()
                if torch.is_tensor(value) and value.shape == like.shape
            }
    own = list(model.parameters())
    averages = checkpoint.get("ema", {})
    for name, value in averages.items():
        if isinstance(value, list):
            averages[name] = list(map(shared_out, value, own))
        elif isinstance(value, dict):
            averages[name] = {key: list(map(shared_out, one, own)) for key, one in value.items()}
