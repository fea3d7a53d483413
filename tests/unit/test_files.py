"""Files between several writers, killed writers, links and full disks; folders that go away under the work."""

import contextlib
import errno
import json
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from deme.data import InMemoryImages
from deme.metrics import Statistics, measured, statistics_file
from deme.runs import content_hash
from deme.runs.config import _resolved, compose_stage
from deme.runs.run_files import damages
from deme.system import (
    append_line,
    exists,
    expanded,
    files,
    guarded,
    is_locked,
    locked,
    read_jsonl,
    tensors,
)
from deme.system.errors import BadConfig, DiskError, MissingInput, WorkFailed
from tests.models import tiny
from tests.unit.test_shards import IMAGES, Means

CONTEXT = multiprocessing.get_context("fork")
WRITERS = 4


def at_once(work, folder, rounds):
    """Let `work(folder of a round, number of the writer)` run in several processes at once, many times.

    Returns what went wrong."""
    barrier, errors = CONTEXT.Barrier(WRITERS), CONTEXT.Queue()

    def writer(number):
        try:
            for i in range(rounds):
                barrier.wait(300)
                work(folder / str(i), number)
        except BaseException as error:
            barrier.abort()
            errors.put(f"round {i}, writer {number}: {error!r}")
        errors.put(None)

    started = [CONTEXT.Process(target=writer, args=(number,)) for number in range(WRITERS)]
    for process in started:
        process.start()
    said = []
    while said.count(None) < WRITERS:
        said.append(errors.get(timeout=3600))
    for process in started:
        process.join()
    return [text for text in said if text is not None and "BrokenBarrier" not in text]


def text(place, number):
    files.write_text(place / "a.txt", str(number) * 50_000)


def folder(place, number):
    def fill(partial):
        files.write_text(partial / "one.txt", str(number) * 1000)
        (partial / "more").mkdir()
        files.write_text(partial / "more" / "two.txt", str(number) * 1000)

    files.write_folder(place / "made", fill)


def model(place, number):
    one = tiny(number)
    one.save(place / "model", one.state_dict(), {"number": number})


def statistics(place, number):
    found = Statistics().update(torch.full((20, 8), float(number)) + torch.eye(20, 8))
    statistics_file.save_npz(place / "statistics.npz", found, Means(), "images")


def hashed(place, number):
    """The hash of a data folder, kept in the cache: the same folder for all."""
    data = place.parent / "data"
    os.environ["DEME_CACHE"] = str(place)
    assert content_hash(data) == content_hash(data)


def composed(place, number):
    os.environ["DEME_CACHE"] = str(place)
    _resolved.cache_clear()
    assert compose_stage("sample", ["run=asset:digits_base"])["num_images"] is None


def reference(place, number):
    images = InMemoryImages(IMAGES.pixels[:12])
    assert measured(images, "images", Means(), place).statistics.count == 12


def journal(place, number):
    append_line(place / "log.txt", f"{number}" * 2000)


def turns(place, number):
    """Under a lock whose file is deleted after each turn: nobody is interrupted."""
    with locked(place / ".lock", lambda owner: None, remove=True):
        file = place / "turns.json"
        found = json.loads(file.read_text()) if file.exists() else []
        files.write_json(file, [*found, number])


def whole(place, number_of_files):
    found = [file for file in place.rglob("*") if file.is_file()]
    assert len(found) == number_of_files, found
    assert not list(place.rglob("*.tmp"))
    return found


def same_digit(file):
    assert len(set(file.read_text())) == 1
    return file.read_text()[0]


def check_text(place):
    (file,) = whole(place, 1)
    same_digit(file)
    assert file.stat().st_size == 50_000


def check_folder(place):
    assert len({same_digit(file) for file in whole(place, 2)}) == 1


def check_model(place):
    found = {file.name: file for file in whole(place, 5)}
    number = json.loads(found["deme.json"].read_text())["number"]
    with safe_open(found["diffusion_pytorch_model.safetensors"], "pt") as opened:
        bias = opened.get_tensor("conv_in.bias")
    assert torch.equal(bias, tiny(number).state_dict()["unet.conv_in.bias"])


def check_statistics(place):
    statistics_file.load_npz(whole(place, 1)[0], Means())


def check_json(place):
    json.loads(whole(place, 1)[0].read_text())


def check_reference(place):
    assert {file.suffix for file in whole(place, 4)} == {".safetensors", ".json", ".lock"}


def check_journal(place):
    lines = whole(place, 1)[0].read_text().splitlines()
    assert sorted(lines) == [f"{number}" * 2000 for number in range(WRITERS)]


def check_turns(place):
    assert sorted(json.loads(whole(place, 1)[0].read_text())) == [*range(WRITERS)]


CASES = {
    text: check_text,
    folder: check_folder,
    model: check_model,
    statistics: check_statistics,
    hashed: check_json,
    composed: check_json,
    reference: check_reference,
    journal: check_journal,
    turns: check_turns,
}


@pytest.mark.parametrize("rounds", [15, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("work", CASES, ids=lambda work: work.__name__)
def test_four_writers_at_once_leave_one_whole_result(work, rounds, tmp_path, monkeypatch):
    monkeypatch.setenv("DEME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    compose_stage("sample", ["run=asset:digits_base"])  # Hydra's part is in no file
    assert at_once(work, tmp_path, rounds) == []
    for i in range(rounds):
        CASES[work](tmp_path / str(i))


# Names, links, permissions


def test_temporary_names_are_random_and_made_exclusively(tmp_path, monkeypatch):
    seen = []
    for _ in range(2):
        with files.atomic(tmp_path / "a"):
            seen += [path.name for path in tmp_path.glob(".a.*.tmp")]
    assert len(set(seen)) == 2
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for target in (victim, tmp_path / "nowhere"):
        (tmp_path / f".b.{files.MACHINE}{'0' * 16}.tmp").symlink_to(target)
        for write in (
            lambda path: files.write_text(path, "b"),
            lambda path: files.write_folder(path, print),
        ):
            with pytest.raises(DiskError):
                write(tmp_path / "b")
        (tmp_path / f".b.{files.MACHINE}{'0' * 16}.tmp").unlink()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "b").exists()


def test_no_link_is_followed_by_what_is_written_in_place(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("log.txt", ".lock"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(DiskError):
        append_line(tmp_path / "log.txt", "a line")
    with pytest.raises(DiskError), locked(tmp_path / ".lock", None):
        pass
    files.write_text(tmp_path / "log.txt", "the link is replaced, not its target")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "log.txt").is_symlink()


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_users_permissions(mask, tmp_path):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "file", "")
        files.write_folder(tmp_path / "folder", lambda partial: None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_the_longest_name_that_a_disk_allows_can_be_written(tmp_path):
    for name in ("a" * 255, "ä" * 127):
        files.write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


# Killed and failing writers


def _begin(place, as_folder, begun):
    def wait(partial):
        begun.put(str(partial))
        time.sleep(1000)

    if as_folder:
        files.write_folder(place, wait)
    with files.atomic(place) as file:
        file.write(b"half")
        file.flush()
        wait(Path(f"/proc/self/fd/{file.fileno()}").readlink())


@pytest.mark.parametrize("as_folder", [False, True])
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    as_folder, tmp_path
):
    begun, left = CONTEXT.Queue(), []
    writers = [
        CONTEXT.Process(target=_begin, args=(tmp_path / "a", as_folder, begun)) for _ in range(2)
    ]
    try:
        for writer in writers:
            writer.start()
            left.append(Path(begun.get(timeout=60)))
        files.remove_leftovers(tmp_path)
        assert left[0].exists()
        writers[0].kill()
        writers[0].join()
        other = tmp_path / ".a.tmp"  # somebody else's
        other.write_text("kept")
        files.write_folder(tmp_path / "b", lambda partial: None)
        assert [place.exists() for place in left] == [False, True]
        assert other.exists()
    finally:
        for writer in writers:
            writer.kill()


def test_a_folder_in_the_way_is_replaced_and_anything_else_is_not(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("old")
    files.write_folder(tmp_path / "old", lambda partial: files.write_text(partial / "new", "new"))
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new"]
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    for name in ("file", "link"):
        with pytest.raises(DiskError):
            files.write_folder(tmp_path / name, lambda partial: None)
    assert (tmp_path / "link" / "new").read_text() == "new"
    assert (tmp_path / "file").read_text() == "a file"

    def fail(partial):
        files.write_text(partial / "half", "")
        raise WorkFailed("no")

    with pytest.raises(WorkFailed):
        files.write_folder(tmp_path / "old", fail)
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "file", "link"}


def test_what_appears_while_a_folder_is_written_is_kept_unless_it_may_be_replaced(tmp_path):
    def refuse():
        raise WorkFailed("somebody else's")

    def fill(partial):
        files.write_text(tmp_path / "made" / "theirs", "theirs")
        files.write_text(partial / "ours", "ours")

    with pytest.raises(WorkFailed, match="somebody else's"):
        files.write_folder(tmp_path / "made", fill, refuse)
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "theirs"]
    files.write_folder(tmp_path / "made", fill)
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "ours"]
    files.write_folder(tmp_path / "new", lambda partial: None, refuse)


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_folder_is_replaced_in_one_step_where_the_system_can(exchanged, tmp_path, monkeypatch):
    """A kill between two renames would leave neither folder."""
    there, remove = [], files._remove

    def watched(place):
        there.append((tmp_path / "made" / "file").exists())
        remove(place)

    if not exchanged:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    else:
        for name in "ab":
            (tmp_path / name).mkdir()
        if not files._exchanged(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this system or disk cannot")
    monkeypatch.setattr(files, "_remove", watched)
    for text in ("old", "new"):
        files.write_folder(
            tmp_path / "made",
            lambda partial, text=text: files.write_text(partial / "file", text),
        )
    assert there == [exchanged]
    assert (tmp_path / "made" / "file").read_text() == "new"
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_first_write_into_a_folder_removes_what_was_left_by_this_machine_only(tmp_path):
    another = "0" * 8 if files.MACHINE != "0" * 8 else "1" * 8
    ours, theirs = (f".a.{machine}{'0' * 16}.tmp" for machine in (files.MACHINE, another))
    for name in (ours, theirs):
        (tmp_path / name).touch()
    files.write_text(tmp_path / "new", "")
    assert {path.name for path in tmp_path.iterdir()} == {"new", theirs}


def test_a_file_that_cannot_be_read_is_named_and_not_the_one_that_is_made_from_it(tmp_path):
    source, made = tmp_path / "source", tmp_path / "place" / "made"
    with (
        pytest.raises(MissingInput, match=r"source cannot be read: No such file"),
        files.atomic(made),
    ):
        source.read_text()
    source.mkdir()
    (source / "dangling").symlink_to("nothing")
    with pytest.raises(MissingInput, match=r"dangling cannot be read: .*No such file"):
        files.write_folder(made, lambda partial: shutil.copytree(source, partial / "copy"))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "made", made.with_name("x" * 300)):
        with pytest.raises(DiskError, match="cannot write"):
            files.write_text(place, "")
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_cannot_be_a_path_leads_to_nothing_and_is_held_by_nobody(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / ("x" * 300), tmp_path / "loop", tmp_path / "null\0byte", "~nobody/x"):
        assert not exists(place)
    assert not is_locked(tmp_path / ("x" * 300))
    assert dict(damages(tmp_path, {"outputs": {"null\0byte": 1, "x" * 300: 1, "absent": 1}})) == {
        name: f"{name} is missing" for name in ("null\0byte", "x" * 300, "absent")
    }
    with pytest.raises(BadConfig, match="cannot be a path"):
        expanded("~nobody-of-this-name/x")


@pytest.fixture
def full_disk(monkeypatch):
    """Every file that is opened for writing has no space."""
    device = os.open("/dev/full", os.O_WRONLY)
    dup = os.dup
    monkeypatch.setattr(files.os, "dup", lambda handle: dup(device))
    yield
    os.close(device)


def save_by_torch(path, values):
    with files.atomic(path) as file:
        torch.save({"a": values, "b": [values]}, file)


SAVERS = {
    "torch": save_by_torch,
    "safetensors": lambda path, values: tensors.save(path, {"a": values}),
    "json": lambda path, values: files.write_json(path, values.tolist()),
}


@pytest.mark.parametrize("count", [10, 100_000])
@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_full_disk_is_one_error_whoever_writes(save, count, tmp_path, full_disk):
    with pytest.raises(DiskError, match=r"no space left on the disk while writing .*a\.bin"):
        save(tmp_path / "a.bin", torch.zeros(count))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_cuts_the_last_line_only(tmp_path, monkeypatch):
    file, write, room = tmp_path / "journal.jsonl", os.write, 20

    def limited(handle, data):
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(handle, data[:room])
        room -= count
        return count

    monkeypatch.setattr(files.os, "write", limited)
    append_line(file, json.dumps("first"))
    with pytest.raises(DiskError):
        append_line(file, json.dumps("the second is too long"))
    assert read_jsonl(file, str) == ["first"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_refused_where_locks_are_needed(number, tmp_path, monkeypatch):
    def none(handle, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", none)
    files.write_text(tmp_path / "a", "needs none")
    (tmp_path / ".lock").touch()
    for lock in (
        lambda path: locked(path, None),
        lambda path: contextlib.nullcontext(is_locked(path)),
    ):
        with pytest.raises(DiskError, match=r"paths\.cache=<dir>"), lock(tmp_path / ".lock"):
            pass
    assert (tmp_path / "a").read_text() == "needs none"


# Folders that go away


def gone_moved(place):
    place.rename(place.with_name("elsewhere"))


def gone_deleted(place):
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def gone_replaced(place):
    gone_deleted(place)
    place.mkdir()


WRITES = {
    "file": lambda place: files.write_text(place / "new", ""),
    "folder": lambda place: files.write_folder(place / "new", lambda partial: None),
    "line": lambda place: append_line(place / "new" / "log.txt", "a line"),
    "lock": lambda place: locked(place / "new" / ".lock", None).__enter__(),
}


@pytest.mark.parametrize("gone", [gone_moved, gone_deleted, gone_replaced])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_folder_that_goes_away_under_the_work_ends_it(write, gone, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    with guarded(place):
        files.write_text(place / "first" / "file", "")
        (place / "first" / "file").rename(place / "file")
        (place / "first").rmdir()
        gone(place)
        with pytest.raises(WorkFailed, match="moved, deleted or replaced"):
            write(place)
        files.write_text(tmp_path / "other", "is not guarded")
    assert not place.exists() or list(place.iterdir()) == []


def test_a_folder_that_goes_away_while_a_file_is_written_ends_the_work(tmp_path):
    place = tmp_path / "run"

    def write_while_it_moves():
        with files.atomic(place / "new") as file:
            file.write(b"half")
            gone_moved(place)

    place.mkdir()
    with guarded(place), pytest.raises(WorkFailed, match="moved, deleted or replaced"):
        write_while_it_moves()
    assert not place.exists()


def test_what_is_read_from_a_folder_that_went_away_says_so(tmp_path):
    place = tmp_path / "run"
    files.write_text(place / "file", "")

    def read_what_moved():
        with guarded(place):
            gone_moved(place)
            tensors.TensorFile(place / "file")

    with pytest.raises(WorkFailed, match="moved, deleted or replaced"):
        read_what_moved()
    with pytest.raises(MissingInput), guarded(tmp_path):
        tensors.TensorFile(place / "file")


def _hold(place, begun, go):
    with locked(place / ".lock", None):
        begun.set()
        go.wait()
        gone_deleted(place)


def test_a_lock_in_a_folder_that_was_deleted_meanwhile_is_taken_anew(tmp_path):
    place, begun, go = tmp_path / "run", CONTEXT.Event(), CONTEXT.Event()
    holder = CONTEXT.Process(target=_hold, args=(place, begun, go))
    holder.start()
    begun.wait()
    with locked(place / ".lock", None) as held:
        assert not held
    told = []
    with locked(place / ".lock", lambda owner: (told.append(owner), go.set())) as held:
        assert held
        assert is_locked(place / ".lock")
    assert told == [f"process {holder.pid} on {os.uname().nodename}"]
    holder.join()
