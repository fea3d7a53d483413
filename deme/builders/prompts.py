"""What text to image needs beside images: latents and captions to train on, prompts to draw."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from deme.data import ImageData
from deme.data.latents import CachedLatents
from deme.data.prompts import Prompts
from deme.diffusion.conditioning import Network
from deme.models.denoiser import DenoisingModel
from deme.models.text_to_image import TextToImageModel
from deme.runs.config import accepted_arguments, instantiate_with
from deme.runs.run import say
from deme.sampling.generate import generate
from deme.sampling.sampler import Sampler
from deme.system.errors import BadConfig
from deme.system.paths import cache_of


def prepared(
    config: dict[str, Any],
    model: DenoisingModel,
    images: Any,
    device: str,
    data: ImageData | None = None,
    log: Callable[[str], None] = say,
) -> Any:
    """Return images as the model sees them: of a latent model their latents and embeddings, encoded once; else the images.

    `data` has the settings of training: mirror images, the share of captions that is left out.
    """
    if not isinstance(model, TextToImageModel):
        return images
    flip, dropout = (data.random_flip, data.caption_dropout) if data is not None else (False, 0.0)
    encoders = model.encoders.to(device)
    latents = CachedLatents(images, encoders, cache_of(config), flip, dropout, log)
    encoders.release()
    if cut := encoders.truncated(images.captions(list(range(len(images))))):
        log(
            f"{cut} of {len(images)} captions are longer than {encoders.max_tokens} tokens: their ends are not read"
        )
    return latents


def prompts_of(
    config: dict[str, Any], model: DenoisingModel, data: ImageData | None
) -> Prompts | None:
    """Return the prompts that a config names, None for a model that takes none. Raises BadConfig unless they are enough."""
    spec = config.get("prompts")
    if not isinstance(model, TextToImageModel):
        if spec:
            raise BadConfig("this model takes no prompts\ntype: prompts=none, or another model=")
        return None
    if not spec:
        raise BadConfig(
            "this model is told what to draw, and no prompts are given\n"
            "type: prompts=captions (of the held-out images), prompts=coco, prompts=partiprompts, ..."
        )
    if data is None and "images" in accepted_arguments(spec):
        raise BadConfig(
            "prompts=captions are those of a data set, and there is none here\ntype: prompts=<option with a file>"
        )
    prompts: Prompts = instantiate_with(spec, images=data.held_out if data is not None else None)
    if config["num_images"] is not None and len(prompts) < config["num_images"]:
        raise BadConfig(
            f"{prompts.name} holds {len(prompts):,} prompts, num_images={config['num_images']} were asked for, one each\n"
            f"type: num_images={len(prompts)}"
        )
    if config["num_images"] is not None and len(prompts) > config["num_images"]:
        say(
            f"  only the first {config['num_images']:,} of {len(prompts):,} prompts of {prompts.name} are drawn"
        )
    return prompts


def check_sampler(sampler: dict[str, Any], model: DenoisingModel) -> None:
    """Raise BadConfig for a sampler that cuts latents to [-1, 1], where pixels lie and latents do not."""
    if isinstance(model, TextToImageModel) and sampler.get("clip_sample"):
        raise BadConfig(
            "sampler.clip_sample=true cuts pixels to [-1, 1]; this model denoises latents\ntype: sampler=ddim_latent"
        )


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
    """Yield the images `indices` of a seed, of their prompts, as uint8 batches [<= batch_size, C, H, W] on the CPU."""
    if prompts is None:
        return generate(
            network,
            model.scheduler_config,
            model.noise_shape,
            sampler,
            seed,
            indices,
            batch_size,
            device,
        )
    seeds = [index if prompt.seed is None else prompt.seed for index, prompt in enumerate(prompts)]
    return generate(
        network,
        model.scheduler_config,
        model.noise_shape,
        sampler,
        seed,
        indices,
        batch_size,
        device,
        lambda part: model.condition([prompts[i].text for i in part]),
        model.decode,
        seeds,
    )
