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
from deme.data.decoded_once import Say
from deme.data.encoded_data import quiet
from deme.diffusion.seeds import generator
from deme.system import files
from deme.system.errors import BadConfig, MissingInput

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


def load_cifar10(
    root: str,
    held_out: str | float = "test",
    random_flip: bool = True,
    download: bool = False,
    say: Say = quiet,
) -> ImageData:
    """Return CIFAR-10 from what lies in `root`: an official archive, or the folder that was in one.

    `held_out`: "test" for the test images, or a share of the training images, picked at random but always the same. Every file's
    md5 is looked at before the file is. Raises MissingInput, BadConfig, WorkFailed for a file that is not the official one.
    """
    if held_out != "test" and (not isinstance(held_out, float) or not 0 < held_out < 1):
        raise BadConfig(f"data.held_out must be test, or a share between 0 and 1; got {held_out!r}")
    folder = Path(root).expanduser()
    place = _chosen(folder, held_out == "test", download, say)
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


def _chosen(root: Path, with_test: bool, download: bool, say: Say) -> Place:
    """Return the first place with all that is needed, fetched if there is none and that is allowed."""
    lacking = {}
    for place in places(root):
        layout = place.layout
        lacking[place.path] = place.missing([*layout.train, *([layout.test] if with_test else [])])
        if not lacking[place.path]:
            return place
    if download:
        return _downloaded(root, say)
    if lacking:
        path, missing = next(iter(lacking.items()))
        instead = (
            "\nor hold out training images instead: data.held_out=0.1"
            if len(missing) == 1 and with_test
            else ""
        )
        raise MissingInput(
            f"{path} lacks {', '.join(missing)}: put {'it' if len(missing) == 1 else 'them'} there, "
            f"or {BINARY.archive} into {root.absolute()}{instead}"
        )
    raise MissingInput(
        f"no CIFAR-10 in {root.absolute()}: put {BINARY.archive} or {PYTHON.archive} there, as it is\n"
        "(from https://www.cs.toronto.edu/~kriz/cifar.html), or let it be fetched: data.download=true"
    )


def _downloaded(root: Path, say: Say) -> Place:
    """Fetch the archive by torchvision. Raises MissingInput where there is no network."""
    from torchvision.datasets import CIFAR10

    with files.locked(
        root / ".cifar10.lock", lambda owner: say(f"{owner} is fetching CIFAR-10; waiting for it")
    ):
        try:
            with contextlib.redirect_stdout(None):
                CIFAR10(str(root), download=True)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MissingInput(
                f"CIFAR-10 cannot be fetched: {reason}\n"
                f"put {BINARY.archive} or {PYTHON.archive} (https://www.cs.toronto.edu/~kriz/cifar.html) into {root.absolute()}"
            ) from error
    return Place(root / PYTHON.folder, PYTHON)


def _pixels(batch: bytes, pickled: bool) -> Tensor:
    """Return the images of a batch, uint8 [N, 3, 32, 32]; its bytes are known to be the official ones."""
    if pickled:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about names that were current in 2009
            rows = pickle.loads(batch, encoding="bytes")[b"data"]
    else:
        rows = np.frombuffer(batch, np.uint8).reshape(-1, 1 + PIXELS)[
            :, 1:
        ]  # a label before each image
    return torch.from_numpy(np.array(rows, np.uint8)).reshape(-1, *SHAPE)
