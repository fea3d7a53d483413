"""Data sets with known checksums: their official files, and where these may be.

The checksums are compared when the files are read (deme.data), so that nothing else has to be
hashed to identify the training data. Whether the files exist is checked before any work, without
torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deme.system.disk import expanded
from deme.system.errors import MissingInput


@dataclass(frozen=True)
class Layout:
    """One of the two official formats of CIFAR-10.

    `md5`: checksums of the archive, of the batches of training images, and of the batch of test
    images, in this order.
    """

    archive: str
    folder: str
    md5: dict[str, str]
    pickled: bool

    def batches(self, with_test: bool) -> list[str]:
        """Return the batches of training images and, `with_test`, that of test images."""
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
# As in torchvision.datasets.CIFAR10; a test compares them.
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
        """Return the missing batches of a folder; an archive is checked when it is read."""
        if not self.path.is_dir():
            return []
        return [n for n in self.layout.batches(with_test) if not (self.path / n).is_file()]


def cifar10_place(root: Path, with_test: bool) -> Place:
    """Return the first place below `root` with all needed batches. Raises MissingInput."""
    folders = [Place(root / layout.folder, layout) for layout in LAYOUTS]
    archives = [Place(root / layout.archive, layout) for layout in LAYOUTS]
    found = [place for place in (*folders, *archives) if place.path.exists()]
    complete = next((place for place in found if not place.missing(with_test)), None)
    if complete is not None:
        return complete
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


# sha256 sums of the unpacked files of Fashion-MNIST, and where torchvision and Debian's package put
# them
FASHION_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_FOLDERS = (".", "FashionMNIST/raw", "fashion-mnist", "/usr/share/datasets/fashion-mnist")


def fashion_mnist_file(root: Path, name: str) -> Path:
    """Return the path of an idx file, compressed or not. Raises MissingInput."""
    places = [root / folder / f"{name}{end}" for folder in FASHION_FOLDERS for end in ("", ".gz")]
    for place in places:
        if place.is_file():
            return place
    raise MissingInput(
        f"no Fashion-MNIST in {root.absolute()}: put {name}.gz and the other three files there\n"
        "(from https://github.com/zalandoresearch/fashion-mnist, or apt install "
        "dataset-fashion-mnist), or type: data.root=<folder of the files>"
    )


@dataclass(frozen=True)
class Official:
    """An official file that a data option reads.

    `path`: where to put it if it is missing. `find` raises MissingInput if neither the file nor an
    alternative exists.
    """

    path: Path
    find: Callable[[], object]

    @property
    def missing(self) -> MissingInput | None:
        """The error of a missing file, None if it exists."""
        try:
            self.find()
        except MissingInput as error:
            return error
        return None


def official_files(option: Mapping[str, Any]) -> list[Official] | None:
    """Return the official files that a `data` option reads, None for other data sets."""
    listed = _OFFICIAL.get(str(option.get("_target_")))
    if listed is None:
        return None
    return listed(expanded(str(option.get("root", "."))), option.get("held_out", "test") == "test")


def _cifar10(root: Path, with_test: bool) -> list[Official]:
    return [Official(root / BINARY.archive, partial(cifar10_place, root, with_test))]


def _fashion_mnist(root: Path, with_test: bool) -> list[Official]:
    names = [f"{part}-images-idx3-ubyte" for part in ("train", *(["t10k"] if with_test else []))]
    return [Official(root / f"{n}.gz", partial(fashion_mnist_file, root, n)) for n in names]


_OFFICIAL: dict[str, Callable[[Path, bool], list[Official]]] = {
    "deme.data.cifar10.load_cifar10": _cifar10,
    "deme.data.fashion_mnist.load_fashion_mnist": _fashion_mnist,
}
