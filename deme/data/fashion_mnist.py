"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), from its idx files, packed by gzip or not.

60,000 training and 10,000 test images of clothes, grey, 28 x 28.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deme.data import ImageData, InMemoryImages
from deme.data.decode import resized
from deme.data.split_dataset import check_held_out, hold_out_share
from deme.system import WorkFailed, first_line
from deme.system.official_files import FASHION_FILES, fashion_mnist_file

SIZE = 28
HEADER = 16  # bytes before the pixels of a file of images, 8 before the labels
MAX_BYTES = 2**26  # of an unpacked file: the largest has 47 million


def load_fashion_mnist(
    root: str,
    size: int | None = None,
    held_out: str | float = "test",
    random_flip: bool = False,
) -> ImageData:
    """Return Fashion-MNIST from the idx files below `root`, or from Debian's package.

    Images are uint8 [N, 1, 28, 28], or [N, 1, size, size], resized by Pillow's antialiased bicubic
    filter. `held_out` is "test" for the test images, or a share of the training images, chosen by
    a fixed seed. Raises MissingInput, BadConfig, WorkFailed for a file that is not the official
    one.
    """
    check_held_out(held_out)
    train = resized(read_images(root, "train"), size)
    if held_out != "test":
        return hold_out_share(train, float(held_out), random_flip, "fashion_mnist")
    test = resized(read_images(root, "t10k"), size)
    return ImageData(InMemoryImages(train), InMemoryImages(test), random_flip)


def read_images(root: str, part: str) -> Tensor:
    """Return the images of a part, `train` or `t10k`, uint8 [N, 1, 28, 28]."""
    return _values(root, f"{part}-images-idx3-ubyte", HEADER).reshape(-1, 1, SIZE, SIZE)


def read_labels(root: str, part: str) -> Tensor:
    """Return the classes of a part, `train` or `t10k`, int64 [N], in 0..9."""
    return _values(root, f"{part}-labels-idx1-ubyte", HEADER // 2).long()


def _values(root: str, name: str, start: int) -> Tensor:
    file = fashion_mnist_file(Path(root).expanduser(), name)
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
            data = opened.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise WorkFailed(f"{file} cannot be read: {first_line(error)}\ncopy it again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != FASHION_FILES[name]:
        raise WorkFailed(
            f"{file} is not the official file: the sha256 of its content is {found}, "
            f"expected {FASHION_FILES[name]}\ndelete it and download it again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).copy())
