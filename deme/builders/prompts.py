"""Prompts from the `prompts` group, and the images that a network generates from them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from deme.data import ImageData
from deme.data.prompts import Prompts
from deme.diffusion import Network
from deme.models.denoiser import DenoisingModel
from deme.runs import accepted_arguments, instantiate, instantiate_with
from deme.sampling.generate import generate
from deme.sampling.sampler import Sampler
from deme.system import BadConfig, logger


def load_prompts(
    option: Mapping[str, object] | None,
    model: DenoisingModel,
    data: ImageData | None,
    num_images: int | None,
) -> Prompts | None:
    """Return the prompts of a `prompts` option, None for a model that takes none.

    Raises BadConfig unless there is one for each of `num_images` images (None: as many as prompts).
    """
    if not model.is_conditional:
        if option:
            raise BadConfig("this model takes no prompts\ntype: prompts=none, or another model=")
        return None
    if not option:
        raise BadConfig(
            "this model is conditioned on prompts, or on classes by their numbers, and no prompts "
            "are given\n"
            "type: prompts=captions (of the held-out images), prompts=digit_classes, "
            "prompts=<another option>, prompts.path=<file>"
        )
    if data is None and "images" in accepted_arguments(option):
        raise BadConfig(
            "prompts=captions takes the captions of a data set, and there is none here\n"
            "type: prompts=<option with a file>"
        )
    prompts: Prompts = instantiate_with(option, images=data.held_out if data is not None else None)
    if num_images is not None and len(prompts) < num_images:
        raise BadConfig(
            f"{prompts.name} holds {len(prompts):,} prompts, and num_images={num_images} asks for "
            f"one image each\ntype: num_images={len(prompts)}"
        )
    if num_images is not None and len(prompts) > num_images:
        logger.info(
            "using only the first %s of %s prompts of %s",
            f"{num_images:,}",
            f"{len(prompts):,}",
            prompts.name,
        )
    return prompts


def check_sampler(sampler_option: Mapping[str, object], model: DenoisingModel) -> None:
    """Raise BadConfig for a sampler that cannot sample from the model.

    One that clips to [-1, 1], the range of pixels, cannot sample latents.
    """
    if model.is_latent and sampler_option.get("clip_sample"):
        raise BadConfig(
            "sampler.clip_sample=true clips to [-1, 1], the range of pixels; this model denoises "
            "latents\ntype: sampler=ddim_latent"
        )
    instantiate(sampler_option).scheduler(model.sampler_config)


def generate_images(
    network: Network,
    model: DenoisingModel,
    sampler: Sampler,
    seed: int,
    indices: Sequence[int],
    batch_size: int,
    device: str,
    prompts: Prompts | None = None,
) -> Iterator[Tensor]:
    """Yield the images `indices` of a seed as uint8 batches [<= batch_size, C, H, W] on the CPU.

    With `prompts`, image i shows prompt i, and starts from the noise of its prompt's own seed if
    the prompt has one.
    """
    images = partial(
        generate,
        network,
        model.sampler_config,
        model.noise_shape,
        sampler,
        seed,
        indices,
        batch_size,
        device,
    )
    if prompts is None:
        return images()
    return images(
        conditions=lambda part: model.condition([prompts[i].text for i in part]),
        decode=model.decode,
        seeds=[i if prompt.seed is None else prompt.seed for i, prompt in enumerate(prompts)],
    )
