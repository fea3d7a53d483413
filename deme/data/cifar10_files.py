"""CIFAR-10's official files: their names and md5 sums, read without unpacking the archive."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deme.system import MissingInput, WorkFailed


@dataclass(frozen=True)
class Layout:
    """One of the two official formats; `md5` has the sums of the archive and of its batches."""

    archive: str
    folder: str
    md5: dict[str, str]
    test: str
    pickled: bool

    @property
    def train(self) -> list[str]:
        """The batches of training images, in order."""
        return [name for name in self.md5 if name not in (self.archive, self.test)]

    def batches(self, with_test: bool) -> list[str]:
        """Return the batches of training images and, if wanted, that of test images after them."""
        return [*self.train, self.test] if with_test else self.train


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
    test="test_batch.bin",
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
    test="test_batch",
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
        """Yield the batches, their md5 sums checked. Raises MissingInput, WorkFailed."""
        if missing := self.missing(with_test):
            raise MissingInput(f"{self.path} does not hold {', '.join(missing)}")
        names = self.layout.batches(with_test)
        for name, data in zip(names, self._stored(names), strict=True):
            self._check(self.path / name, hashlib.md5(data).hexdigest())
            yield data

    def _stored(self, names: Sequence[str]) -> Iterator[bytes]:
        if self.path.is_dir():
            yield from ((self.path / name).read_bytes() for name in names)
            return
        with open(self.path, "rb") as file:
            self._check(self.path, hashlib.file_digest(file, "md5").hexdigest())
        with tarfile.open(self.path) as archive:
            for name in names:
                member = archive.extractfile(f"{self.layout.folder}/{name}")
                assert member is not None
                yield member.read()

    def _check(self, file: Path, md5: str) -> None:
        expected = self.layout.md5[file.name]
        if md5 != expected:
            raise WorkFailed(
                f"{file} is not the official file: its md5 is {md5}, expected {expected}\n"
                f"delete it and download {self.layout.archive} again"
            )


def places(root: Path) -> list[Place]:
    """Return the places below `root`: unpacked before archives, binary before pickled."""
    found = [Place(root / layout.folder, layout) for layout in LAYOUTS]
    found += [Place(root / layout.archive, layout) for layout in LAYOUTS]
    return [place for place in found if place.path.exists()]
