"""LSUN (Yu et al., arXiv 1506.03365): church_outdoor (126,227 images), bedroom (3,033,042), other categories alike."""

from pathlib import Path

from deme.data import ImageData
from deme.data.decode import Rules
from deme.data.decoded_once import Say
from deme.data.encoded_data import encoded_data, quiet
from deme.data.sources import source_at


def load_lsun(
    path: str,
    size: int = 256,
    resize: str = "bilinear",
    crop: str = "random",
    held_out_fraction: float = 0.01,
    random_flip: bool = False,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    cache: Path | None = None,
    say: Say = quiet,
) -> ImageData:
    """Return one category, RGB: from the official LMDB, a folder of images, or a Hugging Face data set, whichever `path` is.

    Stored images have a shorter side of 256. Raises MissingInput if there is none of these, or a library is missing.
    """
    rules = Rules(size, 3, resize, crop)
    return encoded_data(source_at(path), rules, held_out_fraction, random_flip, corrupt, in_memory, cache, say)
