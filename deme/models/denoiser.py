"""A diffusion model: a network of diffusers, its noise schedule, and optional channel projections.

On disk it is a diffusers pipeline folder (model_index.json, unet/ or transformer/, scheduler/, ...)
that stock diffusers loads, too; projections are stored with the UNet in
unet/projections.safetensors, their placement in unet/projections.json (paper's without it), and
only our loader applies them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import diffusers
from diffusers import ModelMixin
from torch import Tensor, nn

from deme.diffusion import EMPTY_CONDITION, Condition, Network
from deme.models.adapter import LoRA, add_lora_layers, check_rank, fuse_lora, matching_layers
from deme.models.adapter_files import read_factors, write_adapter
from deme.models.checkpoint import NAME, load_into, open_weights
from deme.models.layout import PLACEMENT, PROJECTIONS, is_flow, network_folder, read_placement
from deme.models.noise import schedule_of
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
    """Network and noise schedule; returns the prediction of the network [B, C, H, W].

    `model(x_t [B, C, H, W], t [B], condition)`. Of pixels and unconditional, unless a subclass says
    otherwise. The network is the submodule `part`, and called `network` everywhere.
    """

    pipeline = "DDPMPipeline"  # diffusers' class that samples from it
    part = "unet"  # the network's name in a pipeline
    distilled_guidance: float | None = None  # guidance scale, if it is an input of the network
    sample_size: tuple[int, int] | None = None  # height and width, if not those of the config
    is_conditional = False  # whether its condition is made from texts: prompts, or classes
    takes_masks = False  # whether its input includes a mask and the masked image (inpainting)
    is_resizable = True  # whether the network takes images of other sizes than in its config
    example_text = ""  # one that it takes, if it is conditional
    # ends of the names of the layers that an adapter changes by default
    adapter_targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")

    def __init__(self, network: ModelMixin, scheduler_config: Mapping[str, object]) -> None:
        super().__init__()
        self.add_module(self.part, network)
        self.projections: Projections | None = None
        self.adapter: LoRA | None = None
        self.scheduler_config = dict(scheduler_config)
        self.schedule, self.prediction_type = schedule_of(self.scheduler_config)

    @property
    def network(self) -> ModelMixin:
        """The network of diffusers."""
        return cast(ModelMixin, getattr(self, self.part))

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        size = self.sample_size or self.network.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return self.network.config["in_channels"], height, width

    @property
    def is_guidable(self) -> bool:
        """Whether it also predicts without its condition, as guidance needs."""
        return True

    @property
    def size_multiple(self) -> int:
        """What height and width of the network's input must be multiples of."""
        return 2 ** (len(self.network.config.get("block_out_channels", [0])) - 1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.noise_shape

    @property
    def description(self) -> str:
        """The network's type and size, its prediction type and its noise schedule, in one line."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        snr, shape = self.schedule.snr, str(self.image_shape)
        if self.is_latent:
            shape += f", denoised as latents {self.noise_shape}"
        return (
            f"{type(self.network).__name__}, {count:,} parameters, images {shape}; "
            f"predicts {self.prediction_type}, {len(snr)} timesteps, "
            f"signal-to-noise ratio {float(snr[0]):.4g} at the first and {float(snr[-1]):.3g} at "
            "the last"
        )

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        prediction = self.predict(x_t, self.schedule.timestep_input(t), condition)
        return prediction[:, : x_t.shape[1]]  # without a predicted variance

    def predict(self, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Return all that the network returns for its timestep input `time`, [B, C or 2C, H, W]."""
        return self.call_network(x_t, time, condition)

    def call_network(self, x_t: Tensor, time: Tensor, given: Condition, **more: object) -> Tensor:
        """Call the network; `more` are arguments of its own."""
        found = self.network(x_t, timestep=time, **given, **more, return_dict=False)
        return cast(Tensor, found[0])

    @property
    def not_compiled(self) -> Network:
        """The network without torch.compile, for other shapes than those of training."""
        return self.forward if self._compiled_call_impl is not None else self

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the condition of prompts; empty unless the model is text-conditioned."""
        return EMPTY_CONDITION

    @property
    def pipeline_sampling(self) -> Mapping[str, object]:
        """How the pipeline of diffusers changes what the scheduler's config says, if it does."""
        return {}

    @property
    def sampler_config(self) -> dict[str, object]:
        """What a sampler is made for: the scheduler's config, and `pipeline_sampling`."""
        changes = {"sampling": self.pipeline_sampling} if self.pipeline_sampling else {}
        return {**self.scheduler_config, **changes}

    @property
    def is_latent(self) -> bool:
        """Whether it denoises latents of images, not their pixels."""
        return self.noise_shape != self.image_shape

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images [B, C, H, W] in -1..1 of denoised x0."""
        return x0

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name: all, or those of the adapter."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    def add_adapter(self, adapter: LoRA, is_stored: bool = False) -> None:
        """Freeze the network and add an adapter that changes nothing yet.

        A stored one may have a higher rank than a layer's weight, if it is a sum of others. Raises
        BadConfig for layers that the network does not have, for a rank that is too high, and for a
        second adapter.
        """
        if self.adapter is not None or self.projections is not None:
            what = "an adapter" if self.adapter is not None else "channel projections"
            raise BadConfig(f"the model already has {what}\ntype: adapter=none")
        targets = self.adapter_targets if adapter.targets is None else adapter.targets
        layers = matching_layers(self.network, targets, all_needed=adapter.targets is not None)
        if not is_stored:
            check_rank(self.network, adapter, layers)
        add_lora_layers(self.network, adapter, layers)
        self.adapter = replace(adapter, targets=layers)

    @property
    def adapter_description(self) -> str:
        """The adapter's rank, layers and parameters, in one line; "" without one."""
        if self.adapter is None:
            return ""
        count = sum(each.numel() for each in self.trained_parameters().values())
        total = sum(each.numel() for each in self.parameters())
        return (
            f"a LoRA of rank {self.adapter.rank} for {len(self.adapter.targets or ())} layers, "
            f"{count:,} parameters; {total - count:,} are frozen"
        )

    def fuse_adapter(self) -> None:
        """Add the adapter's change to the weights, if there is one; the model is then plain."""
        if self.adapter is not None:
            fuse_lora(self.network)
            self.adapter = None

    def add_projections(self, placement: str = "blocks") -> None:
        """Add identity projections, unless present. Raises BadConfig if placed otherwise."""
        if self.adapter is not None:
            raise BadConfig("the model has an adapter\ntype: projection=none")
        if self.part != "unet":
            raise BadConfig(
                "channel projections are of UNets, and this model is a "
                f"{type(self.network).__name__}\ntype: projection=none"
            )
        if self.projections is None:
            self.projections = Projections(cast(UNet, self.network), placement)
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
        if self.adapter is not None:
            read_factors(self.network, self.part, folder)
            return
        place = network_folder(folder, ema)
        load_into(self.network, open_weights(place))
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
        if (placement := read_placement(network_folder(folder, ema))) is not None:
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

        Of a model with an adapter it is the adapter alone, as diffusers and peft read it. With
        `links`, files of frozen parts are hard links, where the file system has them. Raises
        NotFinite for weights that are NaN or infinite.
        """
        for name, value in state.items():
            if not is_finite(value):
                raise NotFinite(
                    f"tensor {name} holds NaN or infinite values, and the model is not written\n"
                    "of a training, type: optimizer.lr=<smaller>"
                )
        if self.adapter is not None:
            write_adapter(folder, self.part, state, self.adapter)
            write_json(folder / "deme.json", dict(about))
            return
        self.write_configs(folder, about, links)
        tensors.save(folder / self.part / f"{NAME}.safetensors", _below(state, f"{self.part}."))
        if self.projections is not None:
            tensors.save(folder / PROJECTIONS, _below(state, "projections."))
            write_json(folder / PLACEMENT, {"placement": self.projections.placement})

    @property
    def _scheduler_class(self) -> str:
        """The class of diffusers that the scheduler's config is for."""
        given = self.scheduler_config.get("_class_name")
        return str(given or "DDPMScheduler") if is_flow(self.scheduler_config) else "DDPMScheduler"

    def write_configs(self, folder: Path, about: Mapping[str, object], links: bool = False) -> None:
        """Write everything of a model folder but the network's weights."""
        write_text(folder / self.part / "config.json", self.network.to_json_string())
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler_config)
        write_json(
            folder / "model_index.json",
            {
                "_class_name": self.pipeline,
                "_diffusers_version": diffusers.__version__,
                self.part: ["diffusers", type(self.network).__name__],
                "scheduler": ["diffusers", self._scheduler_class],
            },
        )
        write_json(folder / "deme.json", dict(about))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
