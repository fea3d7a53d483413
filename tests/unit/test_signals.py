import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import deme
from deme.system import signals
from deme.system.errors import Interrupted, Preempted


@pytest.mark.parametrize(
    ("signum", "error"),
    [
        (signal.SIGINT, Interrupted),
        (signal.SIGTERM, Preempted),
        (signal.SIGHUP, Preempted),
        (signal.SIGUSR1, Preempted),
    ],
)
def test_no_except_exception_swallows_a_stop(signum, error):
    with signals.handled(), pytest.raises(error):  # noqa: PT012
        try:
            os.kill(os.getpid(), signum)
        except Exception:
            pytest.fail("swallowed")


def test_a_signal_waits_for_the_next_poll_and_a_second_one_does_not():
    with signals.handled(), signals.graceful():
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(signals.pending(), Preempted)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.pending() is None


def test_a_stop_that_a_librarys_cleanup_hid_is_still_a_stop(monkeypatch, capsys):
    from deme.cli import app
    from deme.system.errors import BadConfig

    def hidden(words):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise BadConfig("failed while it was cleaning up")

    monkeypatch.setattr(app, "_dispatch", hidden)
    assert app.main([]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(app, "_dispatch", lambda words: (_ for _ in ()).throw(BadConfig("a slip")))
    assert app.main([]) == 2


def test_a_stop_that_comes_in_a_destructor_comes_again():
    """Python prints and drops what is raised in `__del__`, and garbage is collected at any moment."""

    class Garbage:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(100):  # here the handler is called
                pass

    with signals.handled(), pytest.raises(Preempted):  # noqa: PT012
        Garbage()
        time.sleep(5)
        pytest.fail("swallowed")


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# The first second: a signal is handled as soon as Python runs the program

HANDLES = re.compile(r"SigCgt:\s*(\w+)")


def handles(process, signum):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(HANDLES.search(status)[1], 16) >> (signum - 1) & 1


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]
)
@pytest.mark.parametrize(
    "seconds",
    [0, 0.3, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)],
)
def test_a_signal_in_the_first_second_ends_with_the_documented_code(
    signum, code, seconds, tmp_path
):
    words = [sys.executable, "-m", "deme", "train", "num_steps=1000"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        while not handles(process, signal.SIGUSR2) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(seconds)
        process.send_signal(signum)
        _, text = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, text
    assert "run the same command to resume" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("signum", "handled"), [(signal.SIGINT, True), (signal.SIGHUP, False)])
def test_a_command_that_a_shell_started_in_the_background(signum, handled, tmp_path):
    """A script's `&` ignores Ctrl-C, and nohup SIGHUP: the former can still be sent by kill."""
    words = [sys.executable, "-m", "deme", "train", "num_steps=1000"]
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signum, before)
    try:
        while not handles(process, signal.SIGUSR2) and process.poll() is None:
            time.sleep(0.001)
        assert handles(process, signum) == handled
        process.send_signal(signum if handled else signal.SIGTERM)
        assert process.wait(120) == (130 if handled else 75)
    finally:
        process.kill()


# Helpers end with the process that started them

HELPER = """
import signal, time
from deme.system import processes, signals

def helper(kind, file):
    if kind == "without":  # a parent death signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with signals.graceful():
        open(file, "w").write("begun")
        while kind != "polite" or signals.pending() is None:
            time.sleep(0.01)
"""
PARENT = """
import os, sys, time
from deme.system import processes
with processes.helpers("the_helper", [[sys.argv[1], sys.argv[2]]]):
    time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["polite", "never polls", "without"])
def test_a_helper_ends_when_its_parent_is_killed(kind, tmp_path):
    (tmp_path / "the_helper.py").write_text(HELPER)
    begun = tmp_path / "begun"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(deme.__file__).parents[1]}"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, kind, begun], env=env)
    while not begun.exists() and parent.poll() is None:
        time.sleep(0.01)
    (helper,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while Path(f"/proc/{helper}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not Path(f"/proc/{helper}").exists()


def test_a_helper_that_fails_ends_with_its_code_and_message(tmp_path):
    (tmp_path / "the_helper.py").write_text(
        "from deme.system import WorkFailed\ndef helper(word): raise WorkFailed(word)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(deme.__file__).parents[1]}"}
    words = [sys.executable, "-m", "deme.system.helper", str(os.getpid()), "the_helper", "no luck"]
    found = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (4, "deme: no luck\n")
