"""A diffusion model: a UNet of diffusers, its noise schedule, and optional channel projections.

On disk it is a diffusers pipeline folder (model_index.json, unet/, scheduler/, ...) that stock
diffusers loads, too; projections are stored with the UNet in unet/projections.safetensors, their
placement in unet/projections.json (paper's without it), and only our loader applies them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import diffusers
from diffusers import DDPMScheduler
from torch import Tensor, nn

from deme.diffusion import EMPTY_CONDITION, Condition, Network, NoiseSchedule
from deme.models.checkpoint import load_into, open_weights
from deme.models.layout import PLACEMENT, PROJECTIONS, UNET, read_placement, unet_folder
from deme.models.projection import Projections, UNet
from deme.system import (
    BadConfig,
    NotFinite,
    WorkFailed,
    tensors,
    write_folder,
    write_json,
    write_text,
)
from deme.system.tensors import is_finite


class DenoisingModel(nn.Module):
    """UNet and noise schedule; returns the prediction of the network [B, C, H, W].

    `model(x_t [B, C, H, W], t [B], condition)`. Of pixels and unconditional, unless a subclass says
    otherwise.
    """

    pipeline = "DDPMPipeline"  # diffusers' class that samples from it

    def __init__(self, unet: UNet, scheduler_config: Mapping[str, object]) -> None:
        super().__init__()
        self.unet = unet
        self.projections: Projections | None = None
        self.scheduler_config = dict(scheduler_config)
        scheduler = DDPMScheduler.from_config(self.scheduler_config)
        self.schedule = NoiseSchedule(scheduler.alphas_cumprod)
        self.prediction_type: str = scheduler.config["prediction_type"]

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        size = self.unet.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config["in_channels"], height, width

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.noise_shape

    @property
    def description(self) -> str:
        """The network's type and size, its prediction type and its noise schedule, in one line."""
        count = sum(parameter.numel() for parameter in self.unet.parameters())
        snr, shape = self.schedule.snr, str(self.image_shape)
        if self.noise_shape != self.image_shape:
            shape += f", denoised as latents {self.noise_shape}"
        return (
            f"{type(self.unet).__name__}, {count:,} parameters, images {shape}; "
            f"predicts {self.prediction_type}, {len(snr)} timesteps, "
            f"signal-to-noise ratio {float(snr[0]):.4g} at the first and {float(snr[-1]):.3g} at "
            "the last"
        )

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        return self.unet(x_t, t, **condition, return_dict=False)[0]

    @property
    def not_compiled(self) -> Network:
        """The network without torch.compile, for other shapes than those of training."""
        return self.forward if self._compiled_call_impl is not None else self

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the condition of prompts; empty unless the model is text-conditioned."""
        return EMPTY_CONDITION

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in -1..1 of denoised x0."""
        return x0

    def add_projections(self, placement: str = "blocks") -> None:
        """Add identity projections, unless present. Raises BadConfig if placed otherwise."""
        if self.projections is None:
            self.projections = Projections(self.unet, placement)
        elif self.projections.placement != placement:
            raise BadConfig(
                "the model already has channel projections with "
                f"placement={self.projections.placement}\n"
                f"type: projection={self.projections.placement}"
            )

    def fold_projections(self) -> None:
        """Multiply foldable projections into their layers; the model is then a plain UNet.

        See docs/method.md#projections. Raises BadConfig for another placement.
        """
        if self.projections is not None:
            self.projections.fold()
            self.projections = None

    def read_weights(self, folder: Path, ema: bool = False) -> None:
        """Replace all weights, in place, by those of a model folder of the same architecture.

        Raises WorkFailed for another architecture.
        """
        place = unet_folder(folder, ema)
        load_into(self.unet, open_weights(place))
        found = read_placement(place)
        ours = None if self.projections is None else self.projections.placement
        if found != ours:
            raise WorkFailed(
                f"{folder} has {found or 'no'} channel projections, the model has {ours or 'none'}"
            )
        if self.projections is not None:
            load_into(self.projections, tensors.TensorFile(place / Path(PROJECTIONS).name))

    def load_weights(self, folder: Path, ema: bool = False) -> None:
        """Read all weights of a model folder, with the projections that it has."""
        if (placement := read_placement(unet_folder(folder, ema))) is not None:
            self.add_projections(placement)
        self.read_weights(folder, ema)

    def save(
        self,
        folder: Path,
        state: Mapping[str, Tensor],
        about: Mapping[str, object],
        links: bool = False,
    ) -> None:
        """Write the folder, whole or not at all; see `write`."""
        write_folder(folder, lambda partial: self.write(partial, state, about, links))

    def write(
        self,
        folder: Path,
        state: Mapping[str, Tensor],
        about: Mapping[str, object],
        links: bool = False,
    ) -> None:
        """Write into a folder: weights `state`, named as in `state_dict()`; `about` as deme.json.

        With `links`, files of frozen parts are hard links, where the file system has them. Raises
        NotFinite for weights that are NaN or infinite.
        """
        for name, value in state.items():
            if not is_finite(value):
                raise NotFinite(
                    f"tensor {name} holds NaN or infinite values, and the model is not written\n"
                    "of a training, type: optimizer.lr=<smaller>"
                )
        self.write_configs(folder, about, links)
        tensors.save(folder / UNET, _below(state, "unet."))
        if self.projections is not None:
            tensors.save(folder / PROJECTIONS, _below(state, "projections."))
            write_json(folder / PLACEMENT, {"placement": self.projections.placement})

    def write_configs(self, folder: Path, about: Mapping[str, object], links: bool = False) -> None:
        """Write everything of a model folder but the UNet's weights."""
        write_text(folder / "unet" / "config.json", self.unet.to_json_string())
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler_config)
        write_json(
            folder / "model_index.json",
            {
                "_class_name": self.pipeline,
                "_diffusers_version": diffusers.__version__,
                "unet": ["diffusers", type(self.unet).__name__],
                "scheduler": ["diffusers", "DDPMScheduler"],
            },
        )
        write_json(folder / "deme.json", dict(about))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
