"""Locks and renames of the disk of runs: what a disk without them is told, on one machine and on two."""

import os
import time

import pytest

from deme.system import shared_disk
from deme.system.errors import DiskError
from deme.system.locks import is_locked
from deme.system.shared_disk import check_disk, registered_worker


def test_a_disk_with_locks_passes_and_is_left_as_it_was(tmp_path):
    check_disk(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_locks_that_exclude_nobody_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        shared_disk, "TRY_LOCK", "import sys; sys.exit(9)"
    )  # another process got the lock
    with pytest.raises(DiskError, match="do not exclude other processes"):
        check_disk(tmp_path)


def test_a_worker_holds_a_lock_that_others_see_until_it_ends(tmp_path):
    folder = tmp_path / "workers"
    with registered_worker(folder):
        (own,) = folder.glob("*.worker")
        assert own.name == f"{os.uname().nodename}-{os.getpid()}.worker"
        assert is_locked(own)
    assert not folder.exists()


def other(folder, age):
    folder.mkdir(exist_ok=True)
    file = folder / "another-machine-7.worker"
    file.write_text("")
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_a_living_worker_of_another_machine_without_a_lock_that_is_seen_here_ends_this_one(
    tmp_path,
):
    file = other(tmp_path, 0)
    with (
        pytest.raises(DiskError, match=r"not shared between .* and another-machine"),
        registered_worker(tmp_path),
    ):
        pytest.fail("it began to work")
    assert [*tmp_path.iterdir()] == [file]


def test_a_worker_of_another_machine_that_died_or_holds_its_lock_does_no_harm(
    tmp_path, monkeypatch
):
    file = other(tmp_path, 1000)
    with registered_worker(tmp_path):
        pass
    os.utime(file)
    monkeypatch.setattr(shared_disk, "is_locked", lambda path: path == file)
    with registered_worker(tmp_path):
        pass
