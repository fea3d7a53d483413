"""Where the images of an evaluation come from: a model, experts, a folder, the data set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from deme.builders import (
    Compute,
    Loaded,
    base_folder,
    check_images,
    check_sampler,
    generate_images,
    load_data,
    load_experts,
    load_model,
    load_prompts,
)
from deme.data import ImageData, batches
from deme.data.decode import resized
from deme.data.inspection import Inspection
from deme.data.prompts import Prompts
from deme.data.raw_image_folder import RawImageFolder
from deme.data.split_dataset import part_of_held_out
from deme.models.layout import COPY_OF_EMA, EMA
from deme.runs import EvaluateSettings, Run, instantiate, takes_ema
from deme.system import BadConfig, cache_folder


@dataclass(frozen=True)
class Source:
    """`pixels(indices)` yields those of the images 0 .. total - 1 as uint8 batches.

    `loaded` is the model that generates them, None for images from disk; `data` is the data set, at
    the size of these images where its option leaves that open; `prompts` are what images show.
    """

    data: ImageData | None
    total: int
    pixels: Callable[[Sequence[int]], Iterable[Tensor]]
    loaded: Loaded | None = None
    prompts: Prompts | None = None


def load_source(run: Run, settings: EvaluateSettings, compute: Compute) -> Source:
    """Return the source of a run's images.

    Raises BadConfig for another number of images than asked for, and for options that do not fit.
    """
    if settings.source == "real":
        return _real(settings)
    if settings.source == "images":
        return _folder(run, settings)
    given, scale = run.single_input("weights"), settings.guidance_scale
    if settings.source == "experts":
        loaded = load_experts(run.weights_folders("experts"), compute, scale)
    else:
        folder = run.weights_folders("weights")[0] if given else base_folder(settings.model)
        ema = takes_ema(settings.model)
        if given and ema and (folder / EMA).is_dir():
            raise BadConfig(
                f"model.ema=true applies only to the model option, and inputs.weights={given} has "
                f"averaged weights, too\ntype: model.path={given} instead of inputs.weights"
            )
        advice = COPY_OF_EMA if given else "model.ema=true"
        pixels_per_side = None if given else settings.model.get("size")
        loaded = load_model(folder, compute, scale, ema and not given, advice, pixels_per_side)
    model = loaded.model
    data = load_data(settings.data, settings.paths, model.image_shape)
    if data is not None and settings.metrics.loss is not None:
        check_images(data, model)
    data = _part(data, settings)
    prompts = None
    if settings.needs_images:
        prompts = load_prompts(settings.prompts, model, data, settings.num_images)
        check_sampler(settings.sampler, model)
    sampler, size = instantiate(settings.sampler), settings.metrics.size

    def pixels(indices: Sequence[int]) -> Iterable[Tensor]:
        for batch in generate_images(
            loaded.network,
            model,
            sampler,
            settings.sample_seed,
            indices,
            settings.batch_size,
            compute.device,
            prompts,
        ):
            yield resized(batch, size)

    return Source(data, settings.num_images, pixels, loaded, prompts)


def _part(data: ImageData | None, settings: EvaluateSettings) -> ImageData | None:
    return None if data is None else part_of_held_out(data, settings.held_out_part)


def _real(settings: EvaluateSettings) -> Source:
    data = _part(load_data(settings.data, settings.paths), settings)
    assert data is not None  # EvaluateSettings
    train, size = data.train, settings.batch_size
    return Source(data, len(train), lambda indices: batches(train, size, indices))


def _folder(run: Run, settings: EvaluateSettings) -> Source:
    folder, size = run.single_input("images"), settings.metrics.size
    assert folder is not None
    images = RawImageFolder(folder)
    if len(images) != settings.num_images:
        raise BadConfig(
            f"{folder} holds {len(images)} images, num_images={settings.num_images} asks for "
            f"another number\ntype: num_images={len(images)}"
        )
    Inspection(images.source, images.background, cache_folder(settings.paths)).log_copies()
    return Source(
        _part(load_data(settings.data, settings.paths, images.shape), settings),
        len(images),
        lambda indices: (resized(b, size) for b in batches(images, settings.batch_size, indices)),
    )
