"""Fashion-MNIST in its official layout, with a few made-up images, and sha256 sums of these files."""

import gzip
import hashlib

import numpy as np

from deme.data import fashion_mnist

DRAW = np.random.default_rng(0)
PIXELS = {
    part: DRAW.integers(0, 256, (n, 28, 28), np.uint8) for part, n in (("train", 20), ("t10k", 6))
}
LABELS = {part: DRAW.integers(0, 10, len(pixels), np.uint8) for part, pixels in PIXELS.items()}


def idx(values: np.ndarray) -> bytes:
    """The format of http://yann.lecun.com/exdb/mnist: type 8 (unsigned byte), shape, values."""
    head = bytes([0, 0, 8, values.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


MADE = {
    f"{part}-{kind}": idx(values[part])
    for kind, values in (("images-idx3-ubyte", PIXELS), ("labels-idx1-ubyte", LABELS))
    for part in ("train", "t10k")
}
SUMS = {name: hashlib.sha256(data).hexdigest() for name, data in MADE.items()}


def write(folder, packed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in MADE.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


def pretend():
    """Let these files pass for the official ones."""
    fashion_mnist.FASHION_FILES = SUMS
