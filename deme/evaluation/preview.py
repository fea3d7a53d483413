"""A grid of samples of a training, during it and at its end."""

from itertools import pairwise
from pathlib import Path

import torch

from deme.builders import generate_images, guided
from deme.data import Captioned, EncodedDataset, Images
from deme.data.prompts import held_out_prompts
from deme.diffusion import FlowSchedule, Network, TimestepRange
from deme.models.adapter import BaseOfAdapter
from deme.models.denoiser import DenoisingModel
from deme.models.latent import LatentModel
from deme.runs import TrainSettings, instantiate
from deme.sampling.ddim import DDIM
from deme.sampling.flow import FlowEuler
from deme.sampling.grid import image_grid
from deme.sampling.routed import RoutedModel
from deme.sampling.sampler import Sampler
from deme.system import atomic, first_line, logger


def preview(
    file: Path,
    settings: TrainSettings,
    model: DenoisingModel,
    images: Images | EncodedDataset,
    trained: TimestepRange | None,
    device: str,
    writes: bool = True,
) -> Path | None:
    """Write a grid of samples and return its path; if that fails, log a warning and return None.

    Text-to-image samples use training captions. With an expert, the model predicts in the range
    `trained`, and the pretrained model elsewhere. A process that does not write only computes.
    """
    try:
        return _grid(file, settings, model, images, trained, device, writes)
    except Exception as error:  # whatever a sampler makes of these weights
        logger.warning("no preview %s: %s", file.name, first_line(error))
        return None


def _grid(
    place: Path,
    settings: TrainSettings,
    model: DenoisingModel,
    images: Images | EncodedDataset,
    trained: TimestepRange | None,
    device: str,
    writes: bool,
) -> Path:
    wanted, num_timesteps = settings.progress.preview, model.schedule.num_timesteps
    model.to(device).eval()
    network: Network = model.not_compiled  # the samples have another shape
    if trained is not None:
        has_adapter = model.adapter is not None
        base = BaseOfAdapter(model) if has_adapter else instantiate(settings.model).to(device)
        ends = sorted({0, trained.low, trained.high, num_timesteps})
        ranges = [TimestepRange(low, high) for low, high in pairwise(ends)]
        networks = [network if item == trained else base for item in ranges]
        network = RoutedModel(networks, ranges, num_timesteps)
    steps = min(wanted.num_inference_steps, num_timesteps)
    sampler: Sampler = DDIM(steps)
    if isinstance(model.schedule, FlowSchedule):
        sampler = FlowEuler(steps)
    count = batch_size = wanted.num_images
    prompts = None
    if model.is_latent and isinstance(sampler, DDIM):
        sampler.settings["clip_sample"] = False
    if model.is_conditional and isinstance(images, Captioned):
        prompts = held_out_prompts(images)
        scale = wanted.guidance_scale if model.is_guidable else None
        network, count = guided(network, model, scale), min(count, len(prompts))
        batch_size = max(1, min(count, settings.batch_size // 2))  # guidance doubles a batch
    batches = generate_images(
        network, model, sampler, wanted.seed, range(count), batch_size, device, prompts
    )
    grid = image_grid(torch.cat(list(batches)))
    if isinstance(model, LatentModel):
        model.encoders.release()  # their memory, which the training needs
    if writes:
        with atomic(place) as file:
            grid.save(file, format="PNG")
    return place
