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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deme.data import ImageData, InMemoryImages
from deme.data.decode import resized
from deme.data.split_dataset import check_held_out, hold_out_share
from deme.system import MissingInput, WorkFailed, first_line, locked, logger

SHAPE = (3, 32, 32)
MAX_BATCH = 2**26  # bytes that are read of a file of images: the official ones have half of that


@dataclass(frozen=True)
class Layout:
    """One of the two official formats.

    `md5` has the sums of the archive, of the batches of training images and of that of test images,
    in this order.
    """

    archive: str
    folder: str
    md5: dict[str, str]
    pickled: bool

    def batches(self, with_test: bool) -> list[str]:
        """Return the batches of training images and, if wanted, that of test images after them."""
        _, *train, test = self.md5
        return [*train, test] if with_test else train


# The archive's sum is on https://www.cs.toronto.edu/~kriz/cifar.html, those of its members are in
# the build files of several projects.
BINARY = Layout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    md5={
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    pickled=False,
)
# As in torchvision.datasets.CIFAR10, which a test compares.
PYTHON = Layout(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    md5={
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    pickled=True,
)
LAYOUTS = (BINARY, PYTHON)


@dataclass(frozen=True)
class Place:
    """A folder of batches, or an archive."""

    path: Path
    layout: Layout

    def missing(self, with_test: bool) -> list[str]:
        """Return the batches that a folder lacks; an archive is checked when it is read."""
        if not self.path.is_dir():
            return []
        return [n for n in self.layout.batches(with_test) if not (self.path / n).is_file()]

    def read(self, with_test: bool) -> Iterator[bytes]:
        """Yield the batches, all of which exist, their md5 sums checked. Raises WorkFailed."""
        names = self.layout.batches(with_test)
        for name, data in zip(names, self._stored(names), strict=True):
            self._check(self.path / name, hashlib.md5(data).hexdigest())
            yield data

    def _stored(self, names: Sequence[str]) -> Iterator[bytes]:
        if self.path.is_dir():
            for name in names:
                with open(self.path / name, "rb") as file:
                    yield file.read(MAX_BATCH)
            return
        with open(self.path, "rb") as file:
            self._check(self.path, hashlib.file_digest(file, "md5").hexdigest())
        with tarfile.open(self.path) as archive:
            for name in names:
                member = archive.extractfile(f"{self.layout.folder}/{name}")
                assert member is not None
                yield member.read(MAX_BATCH)

    def _check(self, file: Path, md5: str) -> None:
        expected = self.layout.md5[file.name]
        if md5 != expected:
            raise WorkFailed(
                f"{file} is not the official file: its md5 is {md5}, expected {expected}\n"
                f"delete it and download {self.layout.archive} again"
            )


def load_cifar10(
    root: str,
    held_out: str | float = "test",
    random_flip: bool = True,
    download: bool = False,
    size: int | None = None,
) -> ImageData:
    """Return CIFAR-10 from `root`, which holds an official archive or the folder in it, unpacked.

    Images are uint8 [N, 3, 32, 32], or [N, 3, size, size], resized by Pillow's antialiased bicubic
    filter.

    `held_out` is "test" for the test images, or a share of the training images, chosen by a fixed
    seed; no two of the official training images are equal. The md5 sum of every file is checked
    before it is read. Raises MissingInput, BadConfig, WorkFailed for a file that is not the
    official one.
    """
    check_held_out(held_out)
    place = _complete_place(Path(root).expanduser(), held_out == "test", download)
    parts = [
        resized(_pixels(data, place.layout.pickled), size)
        for data in place.read(held_out == "test")
    ]
    if held_out == "test":
        return ImageData(
            InMemoryImages(torch.cat(parts[:-1])), InMemoryImages(parts[-1]), random_flip
        )
    return hold_out_share(torch.cat(parts), float(held_out), random_flip, "cifar10")


def _complete_place(root: Path, with_test: bool, download: bool) -> Place:
    """Return the first place with all needed files; if there is none, download if allowed."""
    folders = [Place(root / layout.folder, layout) for layout in LAYOUTS]
    archives = [Place(root / layout.archive, layout) for layout in LAYOUTS]
    found = [place for place in (*folders, *archives) if place.path.exists()]
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
