"""CIFAR-10 (Krizhevsky 2009), from its official files.

50,000 training and 10,000 test images, RGB, 32 x 32.
"""

import contextlib
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deme.data import ImageData, InMemoryImages
from deme.data.cifar10_files import BINARY, PYTHON, Place, places
from deme.data.decode import first_line
from deme.data.split_dataset import split_indices
from deme.system import BadConfig, MissingInput, files, logger

SHAPE = (3, 32, 32)


def load_cifar10(
    root: str,
    held_out: str | float = "test",
    random_flip: bool = True,
    download: bool = False,
) -> ImageData:
    """Return CIFAR-10 from `root`, which holds an official archive or the folder in it, unpacked.

    `held_out` is "test" for the test images, or a share of the training images, chosen by a fixed
    seed. The md5 sum of every file is checked before it is read. Raises MissingInput, BadConfig,
    WorkFailed for a file that is not the official one.
    """
    if held_out != "test" and (not isinstance(held_out, float) or not 0 < held_out < 1):
        raise BadConfig(f"data.held_out must be test, or a share between 0 and 1; got {held_out!r}")
    place = _complete_place(Path(root).expanduser(), held_out == "test", download)
    parts = [_pixels(data, place.layout.pickled) for data in place.read(held_out == "test")]
    if held_out == "test":
        return ImageData(
            InMemoryImages(torch.cat(parts[:-1])), InMemoryImages(parts[-1]), random_flip
        )
    pixels = torch.cat(parts)
    train, held = split_indices(len(pixels), float(held_out), "cifar10")
    if min(len(train), len(held)) < 2:
        raise BadConfig(
            f"data.held_out={held_out} leaves fewer than 2 of {len(pixels):,} images on one side"
        )
    return ImageData(InMemoryImages(pixels[train]), InMemoryImages(pixels[held]), random_flip)


def _complete_place(root: Path, with_test: bool, download: bool) -> Place:
    """Return the first place with all needed files; if there is none, download if allowed."""
    found = places(root)
    complete = next((place for place in found if not place.missing(with_test)), None)
    if complete is not None:
        return complete
    if download:
        return _download(root)
    if found:
        path, missing = found[0].path, found[0].missing(with_test)
        instead = (
            "\nor hold out training images instead: data.held_out=0.1"
            if len(missing) == 1 and with_test
            else ""
        )
        raise MissingInput(
            f"{path} does not hold {', '.join(missing)}: "
            f"put {'it' if len(missing) == 1 else 'them'} there, "
            f"or {BINARY.archive} into {root.absolute()}{instead}"
        )
    raise MissingInput(
        f"no CIFAR-10 in {root.absolute()}: "
        f"put {BINARY.archive} or {PYTHON.archive} there, packed\n"
        "(from https://www.cs.toronto.edu/~kriz/cifar.html), or type: data.download=true"
    )


def _download(root: Path) -> Place:
    """Download the archive with torchvision. Raises MissingInput without a network."""
    from torchvision.datasets import CIFAR10

    with files.locked(
        root / ".cifar10.lock",
        lambda owner: logger.info(f"{owner} is downloading CIFAR-10; waiting for it"),
    ):
        try:
            with contextlib.redirect_stdout(None):
                CIFAR10(str(root), download=True)
        except Exception as error:
            raise MissingInput(
                f"CIFAR-10 cannot be downloaded: {first_line(error)}\n"
                f"put {BINARY.archive} or {PYTHON.archive} "
                f"(https://www.cs.toronto.edu/~kriz/cifar.html) into {root.absolute()}"
            ) from error
    return Place(root / PYTHON.folder, PYTHON)


def _pixels(batch: bytes, pickled: bool) -> Tensor:
    """Return the images of a batch, uint8 [N, 3, 32, 32], whose md5 sum has been checked."""
    if pickled:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about module names of 2009
            rows = pickle.loads(batch, encoding="bytes")[b"data"]
    else:
        # the first byte of an image is its label
        rows = np.frombuffer(batch, np.uint8).reshape(-1, 1 + math.prod(SHAPE))[:, 1:]
    return torch.from_numpy(np.array(rows, np.uint8)).reshape(-1, *SHAPE)
