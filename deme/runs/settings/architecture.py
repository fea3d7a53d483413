"""`model=auto`: which UNet fits images of a size and a number of channels.

It depends on these two and `width` alone, and the configuration of a run holds what was chosen. Its
members are DDPM's (Ho et al. 2020, arXiv 2006.11239, appendix B): two residual blocks per
resolution, attention at about 16 x 16. Up to 32 pixels they are small enough to be trained on a
CPU: narrow, with one residual block. For 32 x 32 RGB and width 64 it is model=ddpm_compact, for
256 x 256 RGB model=ddpm_lsun256.
"""

from collections.abc import Iterator, Mapping
from math import ceil, log2

from deme.runs.settings.base import Config, refuse
from deme.system import BadConfig

AUTO = "deme.models.unconditional.unet_that_fits"  # _target_ of model=auto
BUILT = "deme.models.unconditional.build_unconditional"
SMALLEST, LARGEST = 8, 512  # pixels per side
WIDTHS = {32: 32, 128: 64, LARGEST: 128}  # of images up to so many pixels per side
WIDTH_STEP, WIDEST = 32, 512  # channels; group normalisation has 32 groups
KNOWN = {  # the size and the channels of data sets that have one size, by their loaders
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
    """Return a command's config with the UNet that model=auto stands for.

    It is left as it is where size and channels are not known without looking at the images. Raises
    BadConfig for a size that the UNet does not take.
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
    """Whether a `model` option is model=auto whose images are not known yet."""
    return isinstance(option, Mapping) and option.get("_target_") == AUTO


def refuse_open(config: Config) -> None:
    """Raise BadConfig for a config of a suite in which model=auto has no size or no channels."""
    refuse(
        is_open(config.get("model")),
        "model=auto needs the size and the channels of the images in a suite\n"
        "type: data.size=<pixels> data.channels=<1 or 3>",
    )


def unet_option(size: int, channels: int, seed: object, width: object = None) -> Config:
    """Return the `model` option for images of `size` x `size` pixels. Raises BadConfig.

    `width`: channels of the finest resolution; None for those that `default_width` says.
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
    """Return the sides of a UNet's resolutions, from fine to coarse; none if it cannot have them.

    The coarsest has 4 to 7 pixels, of images of more than 32 pixels up to 8.
    """
    if not SMALLEST <= size <= LARGEST:
        return []
    halvings = ceil(log2(size / (7 if size <= 32 else 8)))
    divides = size % 2**halvings == 0
    return [size >> number for number in range(halvings + 1)] if divides else []


def near_sizes(size: int) -> list[int]:
    """Return the nearest sizes below and above that a UNet takes, as far as there are any."""
    below = (each for each in range(min(size, LARGEST), SMALLEST - 1, -1) if sides_of(each))
    above = (each for each in range(max(size, SMALLEST), LARGEST + 1) if sides_of(each))
    return list(dict.fromkeys([*_first(below), *_first(above)]))


def _first(sizes: Iterator[int]) -> list[int]:
    return [size for size, _ in zip(sizes, range(1), strict=False)]


def default_width(size: int) -> int:
    """Return the channels of the finest resolution: the fewer, the smaller the images."""
    return next(width for most, width in WIDTHS.items() if size <= most)


def _widths(size: int, levels: int, width: int) -> list[int]:
    """Return the channels of every resolution, from fine to coarse."""
    if size <= 64:
        return [width if level == 0 else 2 * width for level in range(levels)]
    return [width << min(level // 2, 2) for level in range(levels)]
