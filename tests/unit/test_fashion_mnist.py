"""Fashion-MNIST from idx files made here, in the official layout, against sha256 sums of these."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from deme.data import fashion_mnist
from deme.data.fashion_mnist import load_fashion_mnist, read_labels
from deme.system import official_files
from deme.system.errors import BadConfig, MissingInput, WorkFailed
from tests.fashion import LABELS, MADE, PIXELS, SUMS, write


@pytest.fixture(autouse=True)
def sums(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "FASHION_FILES", SUMS)
    monkeypatch.setattr(  # not the system's
        official_files, "FASHION_FOLDERS", official_files.FASHION_FOLDERS[:-1]
    )


def as_images(values):
    return torch.from_numpy(values)[:, None]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_every_form_gives_the_same_images(folder, packed, tmp_path):
    write(tmp_path / folder, packed)
    data = load_fashion_mnist(str(tmp_path))
    assert torch.equal(data.train.pixels, as_images(PIXELS["train"]))
    assert torch.equal(data.held_out.pixels, as_images(PIXELS["t10k"]))
    assert not data.random_flip
    assert read_labels(str(tmp_path), "t10k").tolist() == LABELS["t10k"].tolist()


def test_another_size_is_pillows_antialiased_bicubic(tmp_path):
    write(tmp_path, packed=True)
    data = load_fashion_mnist(str(tmp_path), size=16)
    expected = Image.fromarray(PIXELS["t10k"][3]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(data.held_out.pixels[3, 0].numpy(), np.asarray(expected))


def test_a_share_of_the_training_images_is_held_out_and_needs_no_test_images(tmp_path):
    write(tmp_path, packed=True)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    data = load_fashion_mnist(str(tmp_path), held_out=0.2)
    assert (len(data.train), len(data.held_out)) == (16, 4)
    both = torch.cat([data.train.pixels, data.held_out.pixels]).flatten(1)
    assert sorted(both.tolist()) == sorted(as_images(PIXELS["train"]).flatten(1).tolist())


def test_slips_are_told(tmp_path):
    with pytest.raises(MissingInput, match=r"put train-images-idx3-ubyte.gz .*\n.*data.root="):
        load_fashion_mnist(str(tmp_path))
    write(tmp_path, packed=True)
    with pytest.raises(BadConfig, match=r"data.held_out must be test, or a share"):
        load_fashion_mnist(str(tmp_path), held_out=1.0)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(MissingInput, match=r"put t10k-images-idx3-ubyte.gz"):
        load_fashion_mnist(str(tmp_path))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"x", lambda data: b""]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_or_truncated_file_is_refused(damage, packed, tmp_path):
    write(tmp_path, packed)
    name = "train-images-idx3-ubyte"
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(damage(MADE[name])) if packed else damage(MADE[name]))
    with pytest.raises(WorkFailed, match=f"{name}.* is not the official file: the sha256"):
        load_fashion_mnist(str(tmp_path))


def test_a_broken_gzip_file_is_one_message(tmp_path):
    write(tmp_path, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    for broken in (b"not gzip", file.read_bytes()[:-20]):
        file.write_bytes(broken)
        with pytest.raises(WorkFailed, match=r"train-images-idx3-ubyte.gz cannot be read"):
            load_fashion_mnist(str(tmp_path))
