"""CIFAR-10 from archives made here, in the official layout, against md5 tables of these files."""

import hashlib
import pickle

import pytest
import torch

from deme.data import cifar10
from deme.data.cifar10 import load_cifar10
from deme.system import official_files
from deme.system.errors import BadConfig, MissingInput, WorkFailed
from deme.system.official_files import BINARY, PYTHON
from tests.cifar10 import MADE, TEST, TRAIN, archive, unpack


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    binary, python = (MADE[layout.folder][0] for layout in (BINARY, PYTHON))
    monkeypatch.setattr(official_files, "LAYOUTS", (binary, python))


@pytest.mark.parametrize("layout", [BINARY, PYTHON], ids=["binary", "python"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_every_form_gives_the_same_images(layout, unpacked, tmp_path):
    if unpacked:
        unpack(layout, tmp_path)
    else:
        (tmp_path / layout.archive).write_bytes(MADE[layout.folder][2])
    before = sorted(tmp_path.rglob("*"))
    data = load_cifar10(str(tmp_path), random_flip=True)
    assert torch.equal(data.train.pixels, TRAIN)
    assert torch.equal(data.held_out.pixels, TEST)
    assert data.random_flip
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize("layout", [BINARY, PYTHON], ids=["binary", "python"])
def test_a_share_of_the_training_images_is_held_out_and_needs_no_test_images(layout, tmp_path):
    unpack(layout, tmp_path, without=[layout.batches(True)[-1]])
    data = load_cifar10(str(tmp_path), 0.2)
    assert (len(data.train), len(data.held_out), data.random_flip) == (24, 6, False)
    both = torch.cat([data.train.pixels, data.held_out.pixels]).flatten(1)
    assert sorted(both.tolist()) == sorted(TRAIN.flatten(1).tolist())
    again = load_cifar10(str(tmp_path), 0.2)
    assert torch.equal(again.held_out.pixels, data.held_out.pixels)


def test_what_is_missing_is_named_with_its_place(tmp_path):
    with pytest.raises(
        MissingInput,
        match=r"put cifar-10-binary.tar.gz or cifar-10-python.tar.gz there.*\n.*data.download=true",
    ):
        load_cifar10(str(tmp_path))
    unpack(BINARY, tmp_path, without=["test_batch.bin"])
    with pytest.raises(
        MissingInput,
        match=r"cifar-10-batches-bin .* test_batch.bin: put it there.*\n.*data.held_out=0.1",
    ):
        load_cifar10(str(tmp_path))
    (tmp_path / PYTHON.archive).write_bytes(MADE[PYTHON.folder][2])  # has all that the folder lacks
    assert torch.equal(load_cifar10(str(tmp_path)).held_out.pixels, TEST)
    (tmp_path / PYTHON.archive).unlink()
    (tmp_path / BINARY.folder / "data_batch_3.bin").unlink()
    with pytest.raises(
        MissingInput,
        match=r"data_batch_3.bin: put it there, or cifar-10-binary.tar.gz into [^\n]*$",
    ):
        load_cifar10(str(tmp_path), 0.1)


@pytest.mark.parametrize("layout", [BINARY, PYTHON], ids=["binary", "python"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"x", lambda data: b""]
)
def test_a_wrong_or_truncated_archive_is_refused_by_its_md5(layout, damage, tmp_path):
    wrong = damage(MADE[layout.folder][2])
    (tmp_path / layout.archive).write_bytes(wrong)
    found, expected = hashlib.md5(wrong).hexdigest(), MADE[layout.folder][0].md5[layout.archive]
    with pytest.raises(
        WorkFailed,
        match=f"{layout.archive} is not the official file: its md5 is {found}, expected {expected}",
    ):
        load_cifar10(str(tmp_path))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_pickle_is_not_touched_before_its_md5_is_right(tmp_path, monkeypatch):
    unpack(PYTHON, tmp_path)
    bomb = pickle.dumps(Bomb())
    (tmp_path / PYTHON.folder / "data_batch_1").write_bytes(bomb)
    with pytest.raises(WorkFailed, match="data_batch_1 is not the official file"):
        load_cifar10(str(tmp_path))
    (tmp_path / PYTHON.folder / "data_batch_1").unlink()
    (tmp_path / PYTHON.folder).rename(tmp_path / "elsewhere")
    batches = {**MADE[PYTHON.folder][1], "data_batch_1": bomb}
    (tmp_path / PYTHON.archive).write_bytes(archive(PYTHON, batches))
    with pytest.raises(WorkFailed, match=r"cifar-10-python.tar.gz is not the official file"):
        load_cifar10(str(tmp_path))


@pytest.mark.parametrize("held_out", ["train", 0.0, 1.0, 1, True, None, 1e-9])
def test_a_share_that_is_none_is_refused(held_out, tmp_path):
    unpack(BINARY, tmp_path)
    with pytest.raises(BadConfig, match=r"data.held_out"):
        load_cifar10(str(tmp_path), held_out)


def test_the_sums_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10

    known = {PYTHON.archive: CIFAR10.tgz_md5, **dict(CIFAR10.train_list), **dict(CIFAR10.test_list)}
    assert known == PYTHON.md5


def test_download_goes_through_torchvision_and_says_what_to_do_without_a_network(
    tmp_path, monkeypatch
):
    import torchvision.datasets

    def no_network(root, download):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    with pytest.raises(
        MissingInput,
        match=r"no route to host\nput cifar-10-binary.tar.gz or",
    ) as caught:
        load_cifar10(str(tmp_path / "new"), download=True)
    assert str(tmp_path / "new") in str(caught.value)

    def fetch(root, download):
        unpack(PYTHON, tmp_path / "new")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    monkeypatch.setattr(cifar10, "PYTHON", MADE[PYTHON.folder][0])
    assert torch.equal(load_cifar10(str(tmp_path / "new"), download=True).train.pixels, TRAIN)
    monkeypatch.setattr(
        torchvision.datasets, "CIFAR10", no_network
    )  # it is there: nothing is fetched
    assert torch.equal(load_cifar10(str(tmp_path / "new"), download=True).held_out.pixels, TEST)
