"""Any encoded images: a folder of files, an LMDB as LSUN's (Yu et al., arXiv 1506.03365), a Hugging Face data set."""

from pathlib import Path

from deme.data import ImageData
from deme.data.decode import Rules
from deme.data.decoded_once import Say
from deme.data.encoded_data import encoded_data, quiet
from deme.data.sources import source_at
from deme.system.errors import BadConfig


def load_image_folder(
    path: str,
    size: int | None = None,
    channels: int | None = None,
    resize: str = "bicubic",
    crop: str = "center",
    held_out_fraction: float = 0.1,
    random_flip: bool = True,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    cache: Path | None = None,
    say: Say = quiet,
) -> ImageData:
    """Return the images of `path`, files of a folder recursively, a random but fixed share of them held out.

    Whoever has a model gives its size (pixels) and channels where they are None. Raises MissingInput if there are no images or
    a library to read them is missing, BadConfig if there are too few to split.
    """
    rules = rules_of(size, channels, resize, crop)
    return encoded_data(
        source_at(path), rules, held_out_fraction, random_flip, corrupt, in_memory, cache, say
    )


def rules_of(size: int | None, channels: int | None, resize: str, crop: str) -> Rules:
    """Return the rules of these settings. Raises BadConfig if there was no model to give a size or channels that are None."""
    if size is None or channels is None:
        missing = [
            name
            for name, value in (("data.size", size), ("data.channels", channels))
            if value is None
        ]
        raise BadConfig(
            f"{', '.join(missing)} must be given: there is no model here to take it from\n"
            f"type: {' '.join(f'{name}=<value>' for name in missing)}"
        )
    return Rules(size, channels, resize, crop)
