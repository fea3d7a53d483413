"""Where the images of an evaluation come from: a model, unmerged experts, a folder, or the training set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from deme.config import make
from deme.data import ImageData, batches
from deme.data.image_folder import folder_as_it_is
from deme.errors import BadConfig
from deme.inputs import weights_folder
from deme.runs import Run
from deme.sampling.generate import generate
from deme.stages.common import Compute, Loaded, base_folder, check_images, experts_of, routed, single


@dataclass(frozen=True)
class Source:
    """`pixels(indices)` yields those of the images 0 .. total - 1 as uint8 batches; `loaded` is what generates, if anything."""

    total: int
    pixels: Callable[[Sequence[int]], Iterable[Tensor]]
    loaded: Loaded | None = None


def source_of(run: Run, data: ImageData, compute: Compute) -> Source:
    """Return where the images of a run come from. Raises BadConfig unless there are exactly as many as asked for."""
    config = run.config
    if config["source"] == "real":
        return Source(len(data.train), lambda indices: batches(data.train, config["batch_size"], indices))
    if config["source"] == "images":
        folder = run.one("images")
        assert folder is not None
        images = folder_as_it_is(folder)
        if len(images) != config["num_images"]:
            raise BadConfig(
                f"{folder} holds {len(images)} images, num_images={config['num_images']} were asked for\n"
                f"type: num_images={len(images)}"
            )
        return Source(len(images), lambda indices: batches(images, config["batch_size"], indices))
    given = run.one("weights")
    loaded = (
        routed(experts_of(run), compute)
        if config["source"] == "experts"
        else single(weights_folder(given) if given else base_folder(config), compute)
    )
    check_images(data, loaded.model)
    sampler = make(config["sampler"])

    def pixels(indices: Sequence[int]) -> Iterable[Tensor]:
        return generate(
            loaded.network,
            loaded.model.scheduler_config,
            loaded.model.image_shape,
            sampler,
            config["sample_seed"],
            indices,
            config["batch_size"],
            compute.device,
        )

    return Source(config["num_images"], pixels, loaded)
