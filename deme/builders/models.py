"""What the working halves of several stages share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deme.data import Captioned, EncodedDataset, ImageData, Images
from deme.diffusion.conditioning import EMPTY_CONDITION, Condition, Network, bind_condition
from deme.merging.plan import Expert, order_experts
from deme.models.denoiser import DenoisingModel
from deme.models.loading import load
from deme.models.swapped import SwappedExperts
from deme.models.text_to_image import TextToImageModel
from deme.runs.config import accepted_arguments, instantiate_with
from deme.runs.inputs import weights_folder
from deme.runs.run import Run, say
from deme.sampling.guided import ClassifierFreeGuidance
from deme.sampling.routed import RoutedModel
from deme.system import processes
from deme.system.errors import BadConfig
from deme.system.paths import cache_of

PRECISIONS = {
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}  # weights stay float32


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute."""

    accelerator: str
    precision: str
    device: str
    compile: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast casts to, None in float32."""
        return PRECISIONS[self.precision]

    @classmethod
    def of(cls, config: dict[str, Any], rank: int | None = None) -> "Compute":
        """Read the `compute` group and set the number of threads.

        Process `rank` of several (default: what torchrun or srun says of this machine) has a GPU of its own.

        Raises BadConfig for a GPU that is not there.
        """
        compute = config["compute"]
        if compute["accelerator"] not in ("cpu", "gpu"):
            raise BadConfig(
                f"compute.accelerator must be cpu or gpu, got {compute['accelerator']!r}"
            )
        if compute["precision"] not in list(PRECISIONS):
            raise BadConfig(
                f"compute.precision must be one of {', '.join(PRECISIONS)}, got {compute['precision']!r}"
            )
        if compute["accelerator"] == "gpu" and not torch.cuda.is_available():
            raise BadConfig(
                "compute.accelerator=gpu, but torch sees no GPU here\ntype: compute=cpu"
            )
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32: features and held-out losses
        if compute["threads"]:
            torch.set_num_threads(compute["threads"])
        rank = processes.local_rank() if rank is None else rank
        device = (
            f"cuda:{rank % torch.cuda.device_count()}" if compute["accelerator"] == "gpu" else "cpu"
        )
        options = (
            bool(compute.get(key)) for key in ("compile", "channels_last", "gradient_checkpointing")
        )
        return cls(compute["accelerator"], compute["precision"], device, *options)

    def prepare_for_training(
        self,
        model: DenoisingModel,
        images: Images | EncodedDataset,
        config: dict[str, Any],
        teacher: torch.nn.Module | None,
    ) -> None:
        """Make a model, and its teacher, ready to train in place, as the options say. Names of weights stay plain.

        Raises WorkFailed for compiled gradients that differ from eager ones.
        """
        model.train()  # what compiling looks at
        if self.gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
        if self.channels_last:
            for network in (model, teacher):
                if network is not None:
                    network.to(memory_format=torch.channels_last)
        if self.compile:
            from deme.training.compiled import compile_checked, make_batch

            rows = max(1, config["batch_size"] // processes.world_size())
            batch = make_batch(
                model.to(self.device), images, rows, self.device, self.dtype, config["seed"]
            )
            compile_checked(model, batch, teacher)

    def network(self, model: torch.nn.Module) -> Network:
        """Return the model as a network that samples: compiled if asked for, run in the asked precision, answering in float32."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()
        dtype = self.dtype
        if dtype is None:
            return model

        def cast(x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
            with torch.autocast(self.device.partition(":")[0], dtype):
                prediction: Tensor = bind_condition(model, condition)(x_t, t)
            return prediction.float()

        return cast


def data_of(
    config: dict[str, Any],
    image_shape: Sequence[int] | None = None,
    log: Callable[[str], None] = say,
) -> Any:
    """Return the data set of a config, None for data=none; a size and channels that it leaves open are those of a model's images, if given.

    `log` is told what the data set has to say. Raises what the data set raises.
    """
    spec = config.get("data")
    if not spec:
        return None
    left_open = {
        name
        for name in ("size", "channels")
        if name in accepted_arguments(spec) and spec.get(name) is None
    }
    spec = {name: value for name, value in spec.items() if name not in left_open}
    if image_shape is not None:
        channels, height, width = image_shape
        known = {"channels": channels, "size": height if height == width else None}
        spec |= {name: known[name] for name in left_open}
    data: ImageData = instantiate_with(spec, cache=cache_of(config), say=log)
    return data


def check_images(data: ImageData, model: DenoisingModel) -> None:
    """Raise BadConfig unless the data set's images have the model's shape, and captions if the model takes them."""
    if isinstance(model, TextToImageModel) and not isinstance(data.train, Captioned):
        raise BadConfig(
            "the model is told what to draw, and the data set has no captions\n"
            "type: data=captioned_images data.path=<folder with metadata.jsonl>, or another data= with captions"
        )
    found, needed = tuple(data.train.__getitems__([0]).shape[1:]), tuple(model.image_shape)
    if found != needed:
        raise BadConfig(
            f"the data set has images of shape {found} (channels, height, width), the model wants {needed}\n"
            "choose another model= or data=, or set data.size and data.channels"
        )


def check_training(config: dict[str, Any], compute: Compute) -> None:
    """Raise BadConfig for precisions that training cannot do as the other options say."""
    if compute.precision == "16-mixed" and compute.accelerator == "cpu":
        raise BadConfig(
            "compute.precision=16-mixed trains on a GPU only\ntype: compute.precision=bf16-mixed"
        )
    if (
        compute.precision == "16-mixed"
        and config["optimizer"].get("fused")
        and config["gradient_clip"]
    ):
        raise BadConfig(
            "a fused optimizer undoes float16's loss scale by itself, after gradients were clipped\n"
            "type: optimizer.fused=false, gradient_clip=null, or compute.precision=bf16-mixed"
        )


def try_optimizer(factory: Callable[..., Any]) -> None:
    """Raise BadConfig if the optimizer's settings are refused, before anything starts."""
    try:
        factory([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, IndexError) as error:
        raise BadConfig(f"optimizer: {error}") from error


def experts_of(run: Run) -> tuple[Expert, ...]:
    """Return the experts among a run's inputs in range order, checked to cover every timestep once."""
    return order_experts([weights_folder(path) for path in run.inputs["experts"]])


@dataclass(frozen=True)
class Loaded:
    """A model (its schedule and shapes), the network that samples in the asked precision, and the same in float32."""

    model: DenoisingModel
    network: Network
    exact: Network


def load_model(folder: Path, compute: Compute, guidance_scale: float | None = None) -> Loaded:
    """Load one model, which samples with guidance where it takes prompts and a scale is given."""
    model = load(str(folder)).to(compute.device)
    return Loaded(model, guided(compute.network(model), model, guidance_scale), model)


def load_experts(
    experts: Sequence[Expert], compute: Compute, guidance_scale: float | None = None
) -> Loaded:
    """Load unmerged experts, routed by timestep; one is in memory at a time."""
    swapped = SwappedExperts([expert.folder for expert in experts], compute.device)
    ranges, num_timesteps = [expert.range for expert in experts], experts[0].num_timesteps
    answer = guided(compute.network(swapped.model), swapped.model, guidance_scale)
    networks, exact = swapped.networks(answer), swapped.networks()
    return Loaded(
        swapped.model,
        RoutedModel(networks, ranges, num_timesteps),
        RoutedModel(exact, ranges, num_timesteps),
    )


def guided(network: Network, model: DenoisingModel, scale: float | None) -> Network:
    """Return the network with classifier-free guidance, where the model takes prompts and `scale` is neither None nor 1."""
    if not isinstance(model, TextToImageModel) or scale is None or scale == 1:
        return network
    return ClassifierFreeGuidance(network, scale, model.condition([""]))


def base_folder(config: dict[str, Any]) -> Path:
    """Return the folder of the pretrained base, which the `model` option names. Raises BadConfig for an option without path."""
    from deme.system.paths import locate

    if "path" not in config["model"]:
        raise BadConfig(
            "the base of a merge is a model on disk\ntype: model=diffusers model.path=<folder>"
        )
    return weights_folder(locate(config["model"]["path"]))
