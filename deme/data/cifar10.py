"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, RGB 32 x 32, from the official files."""

import contextlib
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deme.data import ImageData, InMemoryImages
from deme.data.cifar10_files import BINARY, PYTHON, Place, places
from deme.diffusion.seeds import generator
from deme.system import BadConfig, MissingInput, files, logger

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


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
    folder = Path(root).expanduser()
    place = _complete_place(folder, held_out == "test", download)
    layout = place.layout
    read = place.read([*layout.train, *([layout.test] if held_out == "test" else [])])
    parts = [_pixels(data, layout.pickled) for data in read]
    if held_out == "test":
        return ImageData(
            InMemoryImages(torch.cat(parts[:-1])), InMemoryImages(parts[-1]), random_flip
        )
    pixels = torch.cat(parts)
    order = torch.randperm(len(pixels), generator=generator("cifar10", len(pixels)))
    count = round(float(held_out) * len(pixels))
    if not 2 <= count <= len(pixels) - 2:
        raise BadConfig(
            f"data.held_out={held_out} leaves fewer than 2 of {len(pixels):,} images on one side"
        )
    held, rest = order[:count].sort().values, order[count:].sort().values
    return ImageData(InMemoryImages(pixels[rest]), InMemoryImages(pixels[held]), random_flip)


def _complete_place(root: Path, with_test: bool, download: bool) -> Place:
    """Return the first place with all needed files; if there is none, download if allowed."""
    incomplete = {}
    for place in places(root):
        layout = place.layout
        needed = [*layout.train, *([layout.test] if with_test else [])]
        incomplete[place.path] = place.missing(needed)
        if not incomplete[place.path]:
            return place
    if download:
        return _download(root)
    if incomplete:
        path, missing = next(iter(incomplete.items()))
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
        f"no CIFAR-10 in {root.absolute()}: put {BINARY.archive} or {PYTHON.archive} there, packed\n"
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
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MissingInput(
                f"CIFAR-10 cannot be downloaded: {reason}\n"
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
        records = np.frombuffer(batch, np.uint8).reshape(-1, 1 + PIXELS)
        rows = records[:, 1:]  # the first byte is the label
    return torch.from_numpy(np.array(rows, np.uint8)).reshape(-1, *SHAPE)
