"""Models from disk, as networks that predict and sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.teachers import routed_experts
from deme.diffusion import EMPTY_CONDITION, Condition, Network, bind_condition
from deme.models.denoiser import DenoisingModel
from deme.models.layout import COPY_OF_EMA
from deme.models.loading import load_folder, set_size
from deme.models.swapped import SwappedExperts
from deme.sampling.guided import ClassifierFreeGuidance
from deme.sampling.routed import RoutedModel


@dataclass(frozen=True)
class Loaded:
    """A model (its schedule and shapes), the network that samples, and the same in float32."""

    model: DenoisingModel
    network: Network
    exact: Network


def load_model(
    folder: Path,
    compute: Compute,
    guidance_scale: float | None = None,
    ema: bool = False,
    advice: str = COPY_OF_EMA,
    size: int | Sequence[int] | None = None,
    size_key: str = "model.size",
) -> Loaded:
    """Load one model; a text-conditioned one samples with guidance if a scale is given.

    `ema` and `advice`: see `load_folder`; `size`, `size_key`: see `set_size`.
    """
    model = load_folder(str(folder), ema, advice).to(compute.device)
    set_size(model, size, size_key)
    return Loaded(model, guided(compute.network(model), model, guidance_scale), model)


def load_experts(
    folders: Sequence[Path],
    compute: Compute,
    guidance_scale: float | None = None,
    size: int | Sequence[int] | None = None,
) -> Loaded:
    """Load unmerged experts, routed by timestep; one is in memory at a time.

    Raises BadConfig unless they cover every timestep once and are of one architecture, noise
    schedule and prediction type.
    """
    experts, ranges = routed_experts(folders)
    swapped = SwappedExperts([expert.folder for expert in experts], compute.device)
    set_size(swapped.model, size, "size")
    num_timesteps = ranges[-1].high
    network = guided(compute.network(swapped.model), swapped.model, guidance_scale)
    return Loaded(
        swapped.model,
        RoutedModel(swapped.networks(network), ranges, num_timesteps),
        RoutedModel(swapped.networks(), ranges, num_timesteps),
    )


def guided(network: Network, model: DenoisingModel, scale: float | None) -> Network:
    """Return the network with classifier-free guidance, if the model is text-conditioned.

    A scale of None or 1 means no guidance. A network that was distilled with guidance takes the
    scale instead; None: that of training.
    """
    if model.distilled_guidance is not None:
        return network if scale is None else _with_guidance_scale(network, model, scale)
    if not model.is_conditional or scale is None or scale == 1:
        return network
    return ClassifierFreeGuidance(network, scale, model.condition([""]))


def _with_guidance_scale(network: Network, model: DenoisingModel, scale: float) -> Network:
    """Return the network with another guidance scale as its input than in training."""

    def with_scale(x_t: Tensor, t: Tensor, condition: Condition = EMPTY_CONDITION) -> Tensor:
        before, model.distilled_guidance = model.distilled_guidance, scale
        try:
            return bind_condition(network, condition)(x_t, t)
        finally:
            model.distilled_guidance = before

    return with_scale
