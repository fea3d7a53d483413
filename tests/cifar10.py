"""CIFAR-10 in its official layouts, with a few made-up images, and md5 sums of these files."""

import gzip
import hashlib
import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import torch

from deme.system import official_files
from deme.system.official_files import BINARY, PYTHON

PER_BATCH = 6
PIXELS = np.random.default_rng(0).integers(
    0, 256, (6, PER_BATCH, 3, 32, 32), dtype=np.uint8
)  # the last: test images
TRAIN, TEST = torch.from_numpy(PIXELS[:5].reshape(-1, 3, 32, 32)), torch.from_numpy(PIXELS[5])


def batch(layout, index):
    rows = PIXELS[index].reshape(PER_BATCH, -1)  # 1024 red, 1024 green, 1024 blue, each row by row
    if not layout.pickled:
        labels = np.full((PER_BATCH, 1), index, np.uint8)
        return np.concatenate([labels, rows], axis=1).tobytes()
    data = pickle.dumps(
        {b"data": rows, b"labels": [index] * PER_BATCH, b"batch_label": b"batch"}, protocol=2
    )
    return data.replace(
        b"numpy._core.", b"numpy.core."
    )  # as numpy was called then; protocol 2 writes lines


def archive(layout, names):
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        folder = tarfile.TarInfo(layout.folder)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in names.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def official(layout):
    """Return the layout with the sums of the files made here, the batches, and the archive."""
    batches = {name: batch(layout, index) for index, name in enumerate(layout.batches(True))}
    packed = archive(layout, batches)
    sums = {
        name: hashlib.md5(data).hexdigest()
        for name, data in {layout.archive: packed, **batches}.items()
    }
    return replace(layout, md5=sums), batches, packed


MADE = {layout.folder: official(layout) for layout in (BINARY, PYTHON)}


def pretend():
    """Let these files pass for the official ones."""
    official_files.LAYOUTS = tuple(MADE[layout.folder][0] for layout in (BINARY, PYTHON))


def unpack(layout, root, without=()):
    (root / layout.folder).mkdir()
    for name, data in MADE[layout.folder][1].items():
        if name not in without:
            (root / layout.folder / name).write_bytes(data)
