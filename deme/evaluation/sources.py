"""Where the images of an evaluation come from: a model, unmerged experts, a folder, or the training set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from deme.builders.compute import Compute
from deme.builders.data import check_images, load_data
from deme.builders.models import Loaded, base_folder, load_experts, load_model, ordered_experts
from deme.builders.prompts import check_sampler, generate_images, load_prompts
from deme.data import ImageData, batches
from deme.data.images_as_they_are import folder_as_it_is
from deme.data.prompts import Prompts
from deme.data.resized import resized
from deme.runs.config import extractor_specs, instantiate, score_specs
from deme.runs.inputs import weights_folder
from deme.runs.run import Run
from deme.runs.settings.base import build
from deme.runs.settings.groups import PathsSettings
from deme.system.errors import BadConfig


@dataclass(frozen=True)
class Source:
    """`pixels(indices)` yields those of the images 0 .. total - 1 as uint8 batches; `loaded` is what generates, if anything.

    `data` is the run's data set, of the size of these images where the config leaves that open; `prompts` are what is drawn.
    """

    data: ImageData | None
    total: int
    pixels: Callable[[Sequence[int]], Iterable[Tensor]]
    loaded: Loaded | None = None
    prompts: Prompts | None = None


def source_of(run: Run, compute: Compute) -> Source:
    """Return where the images of a run come from.

    Raises BadConfig unless there are exactly as many as asked for.
    """
    config, paths = run.config, build(PathsSettings, run.config["paths"])
    if config["source"] == "real":
        data = load_data(config["data"], paths)
        if data is None:
            raise BadConfig(
                "source=real draws from the data set, and data=none\ntype: data=<option>"
            )
        train = data.train
        return Source(
            data,
            len(train),
            lambda indices: batches(train, config["batch_size"], indices),
        )
    if config["source"] == "images":
        folder = run.single_input("images")
        assert folder is not None
        images = folder_as_it_is(folder)
        if len(images) != config["num_images"]:
            raise BadConfig(
                f"{folder} holds {len(images)} images, num_images={config['num_images']} were asked for\n"
                f"type: num_images={len(images)}"
            )
        data = load_data(config["data"], paths, images.shape)
        size = config["metrics"]["size"]
        return Source(
            data,
            len(images),
            lambda indices: _sized(batches(images, config["batch_size"], indices), size),
        )
    given = run.single_input("weights")
    loaded = (
        load_experts(ordered_experts(run.inputs["experts"]), compute, config["guidance_scale"])
        if config["source"] == "experts"
        else load_model(
            weights_folder(given) if given else base_folder(config["model"]),
            compute,
            config["guidance_scale"],
        )
    )
    model = loaded.model
    data = load_data(config["data"], paths, model.image_shape)
    if data is not None and config["metrics"]["loss"] is not None:
        check_images(data, model)
    draws = (
        extractor_specs(config["metrics"])
        or score_specs(config["metrics"])
        or config["save_images"]
    )
    prompts = load_prompts(config["prompts"], model, data, config["num_images"]) if draws else None
    if draws:
        check_sampler(config["sampler"], model)
    sampler, size = instantiate(config["sampler"]), config["metrics"]["size"]

    def pixels(indices: Sequence[int]) -> Iterable[Tensor]:
        drawing = generate_images(
            loaded.network,
            model,
            sampler,
            config["sample_seed"],
            indices,
            config["batch_size"],
            compute.device,
            prompts,
        )
        return _sized(drawing, size)

    return Source(data, config["num_images"], pixels, loaded, prompts)


def _sized(pixels: Iterable[Tensor], size: int | None) -> Iterable[Tensor]:
    """Batches at the size they are measured at."""
    return (resized(batch, size) for batch in pixels)
