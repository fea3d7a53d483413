"""CIFAR-10 (Krizhevsky 2009), from its official files, read without unpacking an archive.

50,000 training and 10,000 test images, RGB, 32 x 32.
"""

import contextlib
import hashlib
import math
import pickle
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deme.data import ImageData, InMemoryImages
from deme.data.decode import resized
from deme.data.split_dataset import check_held_out, hold_out_share
from deme.system import MissingInput, WorkFailed, first_line, locked, logger
from deme.system.official_files import BINARY, PYTHON, Place, cifar10_place

SHAPE = (3, 32, 32)
MAX_BATCH = 2**26  # bytes that are read of a file of images: the official ones have half of that


def load_cifar10(
    root: str,
    held_out: str | float = "test",
    random_flip: bool = False,
    download: bool = False,
    size: int | None = None,
) -> ImageData:
    """Return CIFAR-10 from `root`, a folder with an official archive or the unpacked folder.

    Images are uint8 [N, 3, 32, 32], or [N, 3, size, size], resized by Pillow's antialiased bicubic
    filter.

    `held_out` is "test" for the test images, or a share of the training images, chosen by a fixed
    seed; no two of the official training images are equal. The md5 checksum of every file is
    checked before it is read. Raises MissingInput, BadConfig, and WorkFailed for a file that is not
    the official one.
    """
    check_held_out(held_out)
    place = _complete_place(Path(root).expanduser(), held_out == "test", download)
    parts = [
        resized(_pixels(data, place.layout.pickled), size)
        for data in _read(place, held_out == "test")
    ]
    if held_out == "test":
        return ImageData(
            InMemoryImages(torch.cat(parts[:-1])), InMemoryImages(parts[-1]), random_flip
        )
    return hold_out_share(torch.cat(parts), float(held_out), random_flip, "cifar10")


def _complete_place(root: Path, with_test: bool, download: bool) -> Place:
    """Return the first place with all needed files; if there is none, download if allowed."""
    try:
        return cifar10_place(root, with_test)
    except MissingInput:
        if not download:
            raise
    return _download(root)


def _read(place: Place, with_test: bool) -> Iterator[bytes]:
    """Yield the batch files, all of which exist, with checked md5 sums. Raises WorkFailed."""
    names = place.layout.batches(with_test)
    for name, data in zip(names, _stored(place, names), strict=True):
        _check(place, name, hashlib.md5(data).hexdigest())
        yield data


def _stored(place: Place, names: Sequence[str]) -> Iterator[bytes]:
    if place.path.is_dir():
        for name in names:
            with open(place.path / name, "rb") as file:
                yield file.read(MAX_BATCH)
        return
    with open(place.path, "rb") as file:
        _check(place, place.path.name, hashlib.file_digest(file, "md5").hexdigest())
    with tarfile.open(place.path) as archive:
        for name in names:
            member = archive.extractfile(f"{place.layout.folder}/{name}")
            assert member is not None
            yield member.read(MAX_BATCH)


def _check(place: Place, name: str, md5: str) -> None:
    expected = place.layout.md5[name]
    if md5 != expected:
        file = place.path if name == place.layout.archive else place.path / name
        raise WorkFailed(
            f"{file} is not the official file: its md5 is {md5}, expected {expected}\n"
            f"delete it and download {place.layout.archive} again"
        )


def _download(root: Path) -> Place:
    """Download the archive with torchvision. Raises MissingInput without a network."""
    from torchvision.datasets import CIFAR10

    with locked(
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
