"""Downloads from a server on this machine: resumed, checked, and refused with one message."""

import errno
import hashlib
import random
import socket

import pytest

from deme.system import downloads
from deme.system.downloads import Expected, download, partial_file
from deme.system.errors import DiskError, MissingInput, WorkFailed
from tests.web import fails, sends, serving

DATA = random.Random(0).randbytes(5000)
MD5, SHA256 = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 100)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def web():
    with serving() as found:
        yield found


def ranges(web):
    return [wanted for _, wanted in web.asked]


@pytest.mark.parametrize(
    "expected",
    [Expected(), Expected(5000, SHA256), Expected(sha256=SHA256[:8]), Expected(5000, None, MD5)],
)
def test_a_file_arrives_whole_and_checked(expected, web, tmp_path):
    web.answers["/a"] = sends(DATA)
    download(f"{web.address}/a", tmp_path / "new" / "a", expected)
    assert (tmp_path / "new" / "a").read_bytes() == DATA
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]


def test_a_cut_connection_is_resumed_where_it_was_cut(web, tmp_path):
    web.answers["/a"] = sends(DATA, cuts=[1000, 500])
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert (tmp_path / "a").read_bytes() == DATA
    assert ranges(web) == [None, "bytes=1000-", "bytes=1500-"]


def test_what_a_killed_process_has_brought_is_continued(web, tmp_path):
    web.answers["/a"] = sends(DATA)
    partial_file(tmp_path / "a").write_bytes(DATA[:4321])
    download(f"{web.address}/a", tmp_path / "a", Expected(md5=MD5))
    assert (tmp_path / "a").read_bytes() == DATA
    assert ranges(web) == ["bytes=4321-"]


def test_a_whole_part_of_known_size_is_not_asked_for_again(web, tmp_path):
    partial_file(tmp_path / "a").write_bytes(DATA)
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert ((tmp_path / "a").read_bytes(), web.asked) == (DATA, [])


def test_a_server_that_cannot_resume_sends_the_file_from_its_start(web, tmp_path):
    web.answers["/a"] = sends(DATA, cuts=[1000], ranges=False)
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert (tmp_path / "a").read_bytes() == DATA
    assert ranges(web) == [None, "bytes=1000-"]


def test_a_part_that_is_longer_than_the_file_is_brought_again(web, tmp_path):
    web.answers["/a"] = sends(DATA)
    partial_file(tmp_path / "a").write_bytes(bytes(6000))
    download(f"{web.address}/a", tmp_path / "a", Expected(sha256=SHA256))
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_connection_that_brings_nothing_more_ends_and_keeps_what_there_is(web, tmp_path):
    web.answers["/a"] = sends(DATA, cuts=[1000, *[0] * 100])
    with pytest.raises(MissingInput, match=r"after 1,000 bytes.*\n.*same command again"):
        download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert not (tmp_path / "a").exists()
    assert len(web.asked) == downloads.TRIES
    web.answers["/a"] = sends(DATA)
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert (tmp_path / "a").read_bytes() == DATA
    assert ranges(web)[-1] == "bytes=1000-"


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        (Expected(sha256="0" * 64), SHA256),
        (Expected(sha256="0" * 8), SHA256),
        (Expected(5000, None, "0" * 32), MD5),
        (Expected(4999), "5,000"),
    ],
)
def test_another_file_than_expected_never_gets_the_name(expected, wrong, web, tmp_path):
    web.answers["/a"] = sends(DATA)
    for _ in range(2):  # what was wrong is not continued
        with pytest.raises(WorkFailed, match=f"not the expected file.*{wrong}"):
            download(f"{web.address}/a", tmp_path / "a", expected)
        assert [p for p in tmp_path.iterdir() if p.stat().st_size] == []


def test_a_file_that_is_not_there_is_missing_at_once(web, tmp_path):
    with pytest.raises(MissingInput, match="the server returned 404"):
        download(f"{web.address}/a", tmp_path / "a", Expected())
    assert len(web.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_busy_is_asked_again(web, tmp_path):
    answers = [fails(503), fails(429), sends(DATA)]
    web.answers["/a"] = lambda request: answers.pop(0)(request)
    download(f"{web.address}/a", tmp_path / "a", Expected(md5=MD5))
    assert (tmp_path / "a").read_bytes() == DATA


def test_without_a_network_the_reason_is_said(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a"
    with pytest.raises(MissingInput, match="cannot be downloaded: Connection refused"):
        download(address, tmp_path / "a", Expected())
    assert list(tmp_path.iterdir()) == []


PAGE = b"<!DOCTYPE html>\n<html><head><title>Please log in</title></head></html>"


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (PAGE, "text/html; charset=utf-8"),
        (PAGE, "application/octet-stream"),
        (b"<!-- proxy --> <HTML><title>Please log in</title>", "text/plain"),
    ],
)
def test_the_page_of_a_proxy_is_recognised(page, kind, web, tmp_path):
    web.answers["/a"] = sends(page, kind)
    with pytest.raises(MissingInput, match=r"web page \('Please log in'\) instead of the file"):
        download(f"{web.address}/a", tmp_path / "a", Expected())
    assert not (tmp_path / "a").exists()
    web.answers["/a"] = sends(DATA)
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_disk_that_is_too_small_is_known_before_the_download(web, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(DiskError, match="free some space"):
        download(f"{web.address}/a", tmp_path / "a", Expected(5000))
    assert web.asked == []


def test_a_disk_that_fills_up_keeps_what_is_there(web, tmp_path, monkeypatch):
    web.answers["/a"] = sends(DATA, cuts=[1000])
    room = [1000]

    def small_disk(path, mode):
        file = open(path, mode, buffering=0)  # noqa: SIM115
        write = file.write

        def checked(data):
            if len(data) > room[0]:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            room[0] -= len(data)
            return write(data)

        return type("File", (), {
            "write": staticmethod(checked), "tell": file.tell,
            "__enter__": lambda self: self, "__exit__": lambda self, *error: file.close(),
        })()  # fmt: skip

    monkeypatch.setattr(downloads, "open", small_disk, raising=False)
    with pytest.raises(DiskError, match="no space left on the disk while writing"):
        download(f"{web.address}/a", tmp_path / "a", Expected())
    assert partial_file(tmp_path / "a").read_bytes() == DATA[:1000]
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "*")
    download(f"{web.address}/a", tmp_path / "a", Expected(5000, SHA256))
    assert (tmp_path / "a").read_bytes() == DATA
