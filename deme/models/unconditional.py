"""An unconditional diffusion model: diffusers' UNet2DModel, its noise schedule, and optional channel projections.

On disk it is a diffusers pipeline folder (model_index.json, unet/, scheduler/) that stock diffusers loads, too; projections
lie beside the UNet in unet/projections.safetensors, their placement in unet/projections.json (paper's without it), and only
this loader applies them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from deme import tensors
from deme.errors import BadConfig, WorkFailed
from deme.files import read_json, write_folder, write_json, write_text
from deme.models.checkpoint import load_into, open_weights
from deme.models.folder import read_configs, unet_folder
from deme.models.projection import Projections
from deme.paths import locate
from deme.schedule import NoiseSchedule

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTIONS = "unet/projections.safetensors"
PLACEMENT = "unet/projections.json"


class UnconditionalModel(nn.Module):
    """UNet + schedule. `model(x_t [B, C, H, W], t [B])` returns the network's prediction [B, C, H, W]."""

    def __init__(self, unet: UNet2DModel, scheduler_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet = unet
        self.projections: Projections | None = None
        self.scheduler_config = dict(scheduler_config)
        scheduler = DDPMScheduler.from_config(self.scheduler_config)
        self.schedule = NoiseSchedule(scheduler.alphas_cumprod)
        self.prediction_type: str = scheduler.config["prediction_type"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        size = self.unet.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config["in_channels"], height, width

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.unet(x_t, t, return_dict=False)[0]

    def add_projections(self, placement: str = "blocks") -> None:
        """Add identity channel projections, unless there are some. Raises BadConfig if those are placed otherwise."""
        if self.projections is None:
            self.projections = Projections(self.unet, placement)
        elif self.projections.placement != placement:
            raise BadConfig(
                f"the model has channel projections already, of the placement {self.projections.placement}\n"
                f"type: projection={self.projections.placement}"
            )

    def fold_projections(self) -> None:
        """Multiply foldable projections into their layers (METHOD 1.5); the model is a plain UNet then. Raises BadConfig."""
        if self.projections is not None:
            self.projections.fold()
            self.projections = None

    def read_weights(self, folder: Path) -> None:
        """Replace all weights, in place, by those of a model folder of the same architecture. Raises WorkFailed."""
        place = unet_folder(folder)
        load_into(self.unet, open_weights(place))
        projections = place / Path(PROJECTIONS).name
        if projections.is_file() != (self.projections is not None):
            raise WorkFailed(
                f"{folder} {'has' if projections.is_file() else 'has no'} channel projections, unlike the model it is read into"
            )
        if self.projections is not None:
            if (found := read_placement(place)) != self.projections.placement:
                raise WorkFailed(
                    f"{folder} has {found} projections, unlike the model it is read into ({self.projections.placement})"
                )
            load_into(self.projections, tensors.TensorFile(projections))

    def save(self, folder: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write the folder with the weights `state` (named as in `state_dict()`) and a description `deme.json`."""

        def fill(partial: Path) -> None:
            write_configs(partial, self.unet.to_json_string(), self.scheduler_config, about)
            tensors.save(partial / UNET, _below(state, "unet."))
            if self.projections is not None:
                tensors.save(partial / PROJECTIONS, _below(state, "projections."))
                write_json(partial / PLACEMENT, {"placement": self.projections.placement})

        write_folder(folder, fill)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def write_configs(
    folder: Path, unet_config: str, scheduler_config: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write everything of a model folder but the weights."""
    write_text(folder / "unet" / "config.json", unet_config)
    write_json(folder / "scheduler" / "scheduler_config.json", dict(scheduler_config))
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": diffusers.__version__,
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
    )
    write_json(folder / "deme.json", dict(about))


def load(path: str) -> UnconditionalModel:
    """Load a model folder: a diffusers pipeline folder, or a bare UNet folder with a scheduler_config.json beside it.

    The noise schedule is the checkpoint's own (METHOD 1.1); weights of any precision become float32. Raises MissingInput,
    BadConfig (another kind of model), WorkFailed (damaged, NaN, other shapes).
    """
    folder = locate(path)
    unet, scheduler = read_configs(path, folder)
    try:
        model = UnconditionalModel(UNet2DModel.from_config(unet), scheduler)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BadConfig(f"{path} has configs of which diffusers makes no model: {error}") from error
    place = unet_folder(folder)
    if (place / Path(PROJECTIONS).name).is_file():
        model.add_projections(read_placement(place))
    model.read_weights(folder)
    return model.eval()


def read_placement(unet_folder: Path) -> str:
    """Return how the projections of a UNet folder are placed; before there was a choice, the paper's way."""
    file = unet_folder / Path(PLACEMENT).name
    return str(read_json(file)["placement"]) if file.is_file() else "blocks"


def build(unet: Mapping[str, Any], scheduler: Mapping[str, Any], seed: int = 0) -> UnconditionalModel:
    """Return a randomly initialised model: `unet` and `scheduler` are constructor arguments of diffusers' classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in unet.items()})
    return UnconditionalModel(network, json.loads(DDPMScheduler(**scheduler).to_json_string()))
