"""Where the images of an evaluation come from: a model, unmerged experts, a folder, or the training set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from deme.config import make
from deme.data import ImageData, batches
from deme.data.images_as_they_are import folder_as_it_is
from deme.errors import BadConfig
from deme.inputs import weights_folder
from deme.runs import Run, say
from deme.sampling.generate import generate
from deme.stages.common import Compute, Loaded, base_folder, check_images, data_of, experts_of, routed, single


@dataclass(frozen=True)
class Source:
    """`pixels(indices)` yields those of the images 0 .. total - 1 as uint8 batches; `loaded` is what generates, if anything.

    `data` is the run's data set, of the size of these images where the config leaves that open.
    """

    data: ImageData
    total: int
    pixels: Callable[[Sequence[int]], Iterable[Tensor]]
    loaded: Loaded | None = None


def source_of(run: Run, compute: Compute, log: Callable[[str], None] = say) -> Source:
    """Return where the images of a run come from; `log` is told what the data set has to say.

    Raises BadConfig unless there are exactly as many as asked for.
    """
    config = run.config
    if config["source"] == "real":
        data = data_of(config, log=log)
        return Source(data, len(data.train), lambda indices: batches(data.train, config["batch_size"], indices))
    if config["source"] == "images":
        folder = run.one("images")
        assert folder is not None
        images = folder_as_it_is(folder)
        if len(images) != config["num_images"]:
            raise BadConfig(
                f"{folder} holds {len(images)} images, num_images={config['num_images']} were asked for\n"
                f"type: num_images={len(images)}"
            )
        data = data_of(config, images.shape, log)
        return Source(data, len(images), lambda indices: batches(images, config["batch_size"], indices))
    given = run.one("weights")
    loaded = (
        routed(experts_of(run), compute)
        if config["source"] == "experts"
        else single(weights_folder(given) if given else base_folder(config), compute)
    )
    data = data_of(config, loaded.model.image_shape, log)
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

    return Source(data, config["num_images"], pixels, loaded)
