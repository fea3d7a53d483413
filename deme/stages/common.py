"""What the working halves of several stages share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.errors import BadConfig
from deme.inputs import weights_folder
from deme.merging.plan import Expert, order_experts
from deme.models.unconditional import UnconditionalModel, load
from deme.runs import Run
from deme.sampling.routed import RoutedModel

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # weights stay float32
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    accelerator: str
    precision: str
    device: str

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Compute":
        """Read the `compute` group and set the number of threads. Raises BadConfig for a GPU that is not there."""
        compute = config["compute"]
        if compute["accelerator"] not in ("cpu", "gpu"):
            raise BadConfig(f"compute.accelerator must be cpu or gpu, got {compute['accelerator']!r}")
        if compute["precision"] not in PRECISIONS:
            raise BadConfig(f"compute.precision must be one of {', '.join(PRECISIONS)}, got {compute['precision']!r}")
        if compute["accelerator"] == "gpu" and not torch.cuda.is_available():
            raise BadConfig("compute.accelerator=gpu, but torch sees no GPU here\ntype: compute=cpu")
        if compute["threads"]:
            torch.set_num_threads(compute["threads"])
        return cls(compute["accelerator"], compute["precision"], "cuda" if compute["accelerator"] == "gpu" else "cpu")


def try_optimizer(factory: Callable[..., Any]) -> None:
    """Raise BadConfig if the optimizer's settings are refused, before anything starts."""
    try:
        factory([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise BadConfig(f"optimizer: {error}") from error


def experts_of(run: Run) -> tuple[Expert, ...]:
    """Return the experts among a run's inputs in range order, checked to cover every timestep once."""
    return order_experts([weights_folder(path) for path in run.inputs["experts"]])


def routed(experts: Sequence[Expert], device: str) -> tuple[UnconditionalModel, Network]:
    """Return the first expert's model (for its schedule and shapes) and the network that routes by timestep."""
    models = [load(str(expert.folder)).to(device) for expert in experts]
    return models[0], RoutedModel(models, [expert.range for expert in experts], experts[0].num_timesteps)


def base_folder(config: dict[str, Any]) -> Path:
    """Return the folder of the pretrained base, which the `model` option names. Raises BadConfig for an option without path."""
    from deme.paths import locate

    if "path" not in config["model"]:
        raise BadConfig("the base of a merge is a model on disk\ntype: model=diffusers model.path=<folder>")
    return weights_folder(locate(config["model"]["path"]))
