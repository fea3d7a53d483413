"""Standard output and error that cannot be written: the work goes on, and the exit code is its own."""

import json

import pytest

from tests.pipeline.program import TINY_EXPERTS, TINY_TRAIN, run

SWEEP = ["train", "-m", "expert=0,1", *TINY_EXPERTS, "num_steps=2"]
CLOSED = """
import os
def closed(*streams):
    reader, writer = os.pipe()
    os.close(reader)
    for stream in streams:
        os.dup2(writer, stream)
    os.close(writer)
"""
FULL = "import os\ndef full(*streams):\n    [os.dup2(os.open('/dev/full', os.O_WRONLY), s) for s in streams]\n"


def states(folder):
    return sorted(
        json.loads(file.read_text())["state"] for file in folder.glob("runs/*/*/*/status.json")
    )


@pytest.mark.parametrize("patch", ["closed(1)", "closed(1, 2)", "closed(2)", "full(2)"])
def test_the_work_goes_on_when_nobody_reads(patch, tmp_path):
    assert run(SWEEP, tmp_path, CLOSED + FULL + patch)[0] == 0
    assert states(tmp_path) == ["done", "done"]
    for log in tmp_path.glob("runs/*/*/*/log.txt"):  # nothing is lost
        assert f"trained {log.parent.relative_to(tmp_path)}, " in log.read_text()


def test_a_closed_pipe_does_not_hide_that_the_work_failed(tmp_path):
    words = ["train", "-m", "expert=0,9", *TINY_EXPERTS, "num_steps=2"]
    code, text = run(words, tmp_path, CLOSED + "closed(1)")
    assert code == 2, text
    assert "Traceback" not in text
    assert states(tmp_path) == ["done"]
    fail = "\nimport deme.training.fit as f\nfrom deme.system import WorkFailed\ndef no(*_): raise WorkFailed('no')\nf.fit = no"
    code, text = run(["train", *TINY_TRAIN], tmp_path, CLOSED + "closed(1, 2)" + fail)
    assert (code, text) == (4, "")


NO_STDERR = "import os, sys\nos.close(2)\nsys.stderr = None\n"  # 2>&-


@pytest.mark.parametrize(("experts", "code"), [("0,1", 0), ("0,9", 2)])
def test_standard_error_may_be_closed_from_the_beginning(experts, code, tmp_path):
    words = ["train", "-m", f"expert={experts}", *TINY_EXPERTS, "num_steps=1"]
    found, text = run(words, tmp_path, NO_STDERR)
    assert found == code, text
    assert states(tmp_path) == (["done", "done"] if code == 0 else ["done"])
    assert "expert=9" not in text  # no message goes to standard output


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["train", "--cfg", "job"]])
def test_a_reader_that_has_seen_enough_is_no_failure(words, tmp_path):
    code, text = run(words, tmp_path, CLOSED + "closed(1)")
    assert (code, text) == (0, "")


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--cfg", "job"], ["train", *TINY_TRAIN, "num_steps=1"]]
)
def test_results_that_are_lost_on_a_full_disk_are_exit_74(words, tmp_path):
    code, text = run(words, tmp_path, FULL + "full(1)")
    assert code == 74, text
    assert "deme: standard output cannot be written: No space left on device" in text
    assert "Traceback" not in text
    assert states(tmp_path) == ["done"] * (words[-1] == "num_steps=1")
