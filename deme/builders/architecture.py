"""Resolve model=auto from the images themselves: their size and channels determine the UNet."""

from deme.builders.data import load_data
from deme.data.decode import BACKGROUND
from deme.data.image_folder import source_at
from deme.data.inspection import Inspection
from deme.runs import Config, Option, TrainSettings, is_open
from deme.runs.settings.architecture import default_width, near_sizes, with_unet
from deme.system import BadConfig, cache_folder, logger


def with_fitting_unet(config: Config, settings: TrainSettings) -> Config:
    """Return the config of a training with model=auto replaced by a UNet that fits the images.

    If the config gives no size, all images must have the same size. Raises BadConfig for images of
    several sizes, and for a size that the UNet cannot have.
    """
    if not is_open(settings.model) or not settings.data:
        return config
    size, channels = _size_and_channels(settings, settings.data)
    chosen = {"size": size, "channels": channels}
    known = {key: value for key, value in chosen.items() if key in settings.data}
    data = {**settings.data, **known}
    width = settings.model.get("width") or default_width(size)
    logger.info(
        f"model=auto: a UNet for {size} x {size} images, {'grey' if channels == 1 else 'RGB'}; "
        f"{width} channels at full resolution (model.width={2 * width}: 4 times the parameters)"
    )
    return with_unet({**config, "data": data, "model": {**settings.model, **chosen}})


def _size_and_channels(settings: TrainSettings, option: Option) -> tuple[int, int]:
    size = settings.model.get("size") or option.get("size")
    channels = settings.model.get("channels") or option.get("channels")
    if size is not None and not isinstance(size, int):
        raise BadConfig(
            f"model=auto makes UNets of square images, and the size is {size}\n"
            "type: data.size=<pixels per side>"
        )
    if not isinstance(option.get("path"), str):
        data = load_data(option, settings.paths, say=lambda _: None)
        assert data is not None
        found = data.train.__getitems__([0]).shape
        return size or found[-1], channels or found[1]
    source = source_at(option["path"])
    background = option.get("background", BACKGROUND)
    inspection = Inspection(source, background, cache_folder(settings.paths))
    width, height = inspection.smallest
    if size is None and not (inspection.of_one_size and width == height):
        near = " or ".join(f"data.size={each}" for each in near_sizes(min(width, height)))
        raise BadConfig(
            f"model=auto needs one size, and the images are {inspection.stored}\n"
            f"type: data.size=<pixels>, such as {near}"
        )
    return size or width, channels or (1 if inspection.all_grey else 3)
