"""`model=auto`: which UNet fits images of a given size and number of channels.

It depends on these and on `width` only, and the configuration of the run records it. The structure
is DDPM's (Ho et al. 2020, arXiv 2006.11239, appendix B): two residual blocks per resolution,
attention at about 16 x 16. Up to 32 pixels the UNet is small enough to be trained on a CPU: narrow,
with one residual block per resolution. For 32 x 32 RGB and width 64 it equals model=ddpm_compact,
for 256 x 256 RGB model=ddpm_lsun256.
"""

from collections.abc import Mapping
from itertools import islice
from math import ceil, log2

from deme.runs.settings.base import Config, refuse
from deme.system import BadConfig

AUTO = "deme.models.families.unconditional.unet_that_fits"  # the _target_ of model=auto
BUILT = "deme.models.families.unconditional.build_unconditional"
SMALLEST, LARGEST = 8, 512  # pixels per side
WIDTHS = {32: 32, 128: 64, LARGEST: 128}  # channels by the largest image size in pixels
WIDTH_STEP, WIDEST = 32, 512  # channels; group normalisation has 32 groups
KNOWN = {  # size and channels of data sets with a fixed size, by their loaders
    "load_digits": (8, 1),
    "load_cifar10": (32, 3),
    "load_fashion_mnist": (28, 1),
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
}


def with_unet(config: Config) -> Config:
    """Return a command's config with model=auto replaced by a UNet.

    It is unchanged if size or channels are unknown without reading the images. Raises BadConfig for
    a size that the UNet cannot have.
    """
    option, data = config.get("model"), config.get("data")
    if not is_open(option) or not isinstance(option, Mapping):
        return config
    data = data if isinstance(data, Mapping) else {}
    known = KNOWN.get(str(data.get("_target_")).rpartition(".")[2], (None, None))
    size, channels = (
        option.get(key) or data.get(key) or default
        for key, default in zip(("size", "channels"), known, strict=True)
    )
    if not isinstance(size, int) or not isinstance(channels, int):
        return config
    unet = unet_option(size, channels, option.get("seed", 0), option.get("width"))
    return {**config, "model": unet}


def is_open(option: object) -> bool:
    """Whether a `model` option is model=auto for images of unknown size or channels."""
    return isinstance(option, Mapping) and option.get("_target_") == AUTO


def refuse_open(config: Config) -> None:
    """Raise BadConfig if model=auto in the config of a suite lacks the size or the channels."""
    refuse(
        is_open(config.get("model")),
        "model=auto needs the size and the channels of the images in a suite\n"
        "type: data.size=<pixels> data.channels=<1 or 3>",
    )


def unet_option(size: int, channels: int, seed: object, width: object = None) -> Config:
    """Return the `model` option for images of `size` x `size` pixels. Raises BadConfig.

    `width`: channels of the finest resolution; None for `default_width`.
    """
    sides = sides_of(size)
    if not sides:
        near = near_sizes(size)
        raise BadConfig(
            f"model=auto makes no UNet for images of {size} x {size} pixels: they are halved "
            f"several times, and the nearest sizes that can be are {' and '.join(map(str, near))}\n"
            f"type: {' or '.join(f'data.size={each}' for each in near)}"
        )
    if channels not in (1, 3):
        raise BadConfig(f"data.channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    width = default_width(size) if width is None else width
    if not isinstance(width, int) or width % WIDTH_STEP or not 0 < width <= WIDEST:
        raise BadConfig(
            f"model.width must be a multiple of {WIDTH_STEP} up to {WIDEST}, got {width!r}\n"
            "type: model.width=64"
        )
    middle = [9 <= side <= 16 for side in sides]  # where there is attention
    unet = {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 1 if width < WIDTHS[128] else 2,
        "block_out_channels": _widths(size, len(sides), width),
        "down_block_types": ["AttnDownBlock2D" if each else "DownBlock2D" for each in middle],
        "up_block_types": ["AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(middle)],
        "attention_head_dim": None,
        "norm_eps": 1.0e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }
    return {"_target_": BUILT, "unet": unet, "scheduler": dict(SCHEDULER), "seed": seed}


def sides_of(size: int) -> list[int]:
    """Return the resolutions of a UNet in pixels per side, finest first; none for an invalid size.

    The coarsest has 4 to 7 pixels per side, and up to 8 for images above 32 pixels.
    """
    if not SMALLEST <= size <= LARGEST:
        return []
    halvings = ceil(log2(size / (7 if size <= 32 else 8)))
    divides = size % 2**halvings == 0
    return [size >> number for number in range(halvings + 1)] if divides else []


def near_sizes(size: int) -> list[int]:
    """Return the nearest valid image sizes below and above `size`, if there are any."""
    below = (each for each in range(min(size, LARGEST), SMALLEST - 1, -1) if sides_of(each))
    above = (each for each in range(max(size, SMALLEST), LARGEST + 1) if sides_of(each))
    return list(dict.fromkeys([*islice(below, 1), *islice(above, 1)]))


def default_width(size: int) -> int:
    """Return the channels of the finest resolution; smaller images have fewer."""
    return next(width for most, width in WIDTHS.items() if size <= most)


def _widths(size: int, levels: int, width: int) -> list[int]:
    """Return the channels of each resolution, finest first."""
    if size <= 64:
        return [width if level == 0 else 2 * width for level in range(levels)]
    return [width << min(level // 2, 2) for level in range(levels)]
