"""Models whose parameters are sharded over the processes of a training, with torch's fully_shard.

A parameter is then a DTensor, of which each process holds a part. Checkpoints and weights contain
full tensors, so that they do not depend on the number of processes.
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
    """Shard the parameters of a model, in place.

    The parameters of a block of the network are gathered while it computes. All processes call it.
    """
    mesh = init_device_mesh(device.partition(":")[0], (num_processes,))
    for child in model.network.children():
        for block in child if isinstance(child, nn.ModuleList) else [child]:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model is sharded."""
    return isinstance(model, FSDPModule)


def full_tensors(values: Any) -> Any:
    """Return nested containers in which sharded tensors are replaced by full ones on the CPU.

    All processes call it.
    """
    return tree_map(
        lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, values
    )


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a full tensor, sharded as `like` is if that is sharded."""
    if not isinstance(like, DTensor):
        return value
    found = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return cast(Tensor, found)


def shard_checkpoint(
    checkpoint: dict[str, Any], model: nn.Module, parameters: Sequence[Tensor]
) -> None:
    """Shard the full tensors of a checkpoint like the parameters of `model`, in place.

    `parameters`: those of the optimizer, in its order; the model's come first.
    """
    state = checkpoint["state_dict"]
    for name, parameter in model.named_parameters():
        key = f"model.{name}"
        state[key] = sharded_like(state[key], parameter)
    for optimizer in checkpoint["optimizer_states"]:
        for index, values in optimizer["state"].items():
            like = parameters[index]
            values |= {
                name: sharded_like(value, like)
                for name, value in values.items()
                if torch.is_tensor(value) and value.shape == like.shape
            }
    own = list(model.parameters())
    averages = checkpoint.get("ema", {})
    for name, value in averages.items():
        if isinstance(value, list):
            averages[name] = list(map(sharded_like, value, own))
        elif isinstance(value, dict):
            averages[name] = {key: list(map(sharded_like, one, own)) for key, one in value.items()}
