"""Two processes that train one run: the same run as one process's, killed or stopped together, and one message for all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deme.system import tensors
from tests.pipeline.program import ROOT, TINY_EXPERTS, TINY_TRAIN, done, run, start
from tests.pipeline.test_resume import SLOW_STEP, results

WORDS = [
    "train",
    "method=deme",
    "expert=1",
    "projection=blocks",
    "accumulate=2",
    "learning_rate=cosine",
    *TINY_EXPERTS,
]


def environment(rank, port, size=2):
    given = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return f"import os\nos.environ.update({ ({name: str(value) for name, value in given.items()})!r})\n"


def pair(words, folder, patch="", second=""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    return [
        start(words, folder, environment(rank, port) + patch + second * rank) for rank in range(2)
    ]


def codes(programs):
    return [program.wait() for program in programs], programs[0].text + programs[1].text


def trained(words, folder, patch=""):
    found, text = codes(pair(words, folder, patch))
    assert found == [0, 0], text
    (run_dir,) = folder.glob("runs/scratch/train/*")
    return run_dir, text


def check_equal(one, two, tolerance=1e-5):
    """Two directories of the same run: the same files, weights and curves, but for rounding."""
    assert one.name == two.name
    assert {p.relative_to(one) for p in one.rglob("*")} == {
        p.relative_to(two) for p in two.rglob("*")
    }
    for file in one.glob("weights/*/unet/*.safetensors"):
        a, b = (tensors.TensorFile(f).read_all() for f in (file, two / file.relative_to(one)))
        for key, value in a.items():
            assert float((value - b[key]).norm()) <= tolerance * float(value.norm()), key
    curves = [
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (one, two)
    ]
    for rows in zip(*curves, strict=True):
        assert rows[1] == pytest.approx(rows[0], rel=1e-3, abs=1e-7)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return trained(WORDS, tmp_path_factory.mktemp("pair"))


def test_two_processes_train_the_run_that_one_process_trains(undisturbed, tmp_path):
    two, text = undisturbed
    one = done(WORDS, tmp_path)
    check_equal(one, two)
    assert text.count(" in 2 processes") == 1
    assert text.count("trained runs/") == 1
    assert (two / "cost.json").read_bytes() == (one / "cost.json").read_bytes()


def test_two_processes_are_judged_by_the_first_and_save_by_its_clock(undisturbed, tmp_path):
    """The second one's clock alone says that a checkpoint is due, after every step."""
    words = [*WORDS, "progress.validate.every=5", "progress.validate.preview=false",
             "progress.checkpoint_every=1000", "progress.checkpoint_minutes=1000"]  # fmt: skip
    soon = "from deme.training.due import Due\nDue.__call__ = lambda self, step: self.steps == 1000 or step % self.steps == 0\n"
    found, text = codes(pair(words, tmp_path, second=soon))
    assert found == [0, 0], text
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "held_out_loss" in row] == [-1, 4, 9, 11]
    judged, alone = results(run_dir), results(undisturbed[0])
    for name in alone:
        if name != "metrics.jsonl":
            assert judged[name] == alone[name], name
    assert text.count("held_out_loss/raw") == 4


def test_two_killed_processes_go_on_bit_for_bit(undisturbed, tmp_path):
    programs = pair(WORDS, tmp_path, SLOW_STEP)
    programs[0].wait_for(
        lambda: any(
            p.read_text().count("\n") > 5 for p in tmp_path.glob("runs/*/*/*/metrics.jsonl")
        )
    )
    for program in programs:
        program.kill()
    run_dir, text = trained(WORDS, tmp_path)
    assert "(from step 3)" in text or "(from step 6)" in text
    assert results(run_dir) == results(undisturbed[0])
    again, text = trained(WORDS, tmp_path)
    assert (again, text.count("done already")) == (run_dir, 1)


def test_a_signal_to_one_stops_both_at_the_same_step(undisturbed, tmp_path):
    words = [*WORDS, "progress.checkpoint_every=1000"]
    programs = pair(words, tmp_path, SLOW_STEP)
    programs[0].wait_for(
        lambda: any(
            p.read_text().count("\n") > 3 for p in tmp_path.glob("runs/*/*/*/metrics.jsonl")
        )
    )
    programs[1].signal(signal.SIGTERM)
    found, text = codes(programs)
    assert found == [75, 75], text
    assert "Traceback" not in text
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    assert json.loads((run_dir / "status.json").read_text())["state"] == "preempted"
    assert (run_dir / "checkpoints" / "last.ckpt").exists()
    trained(words, tmp_path)
    assert results(run_dir) == results(undisturbed[0])


@pytest.mark.parametrize("balancing", ["uncertainty", "nash_mtl", "pcgrad"])
def test_tasks_are_balanced_as_in_one_process(balancing, tmp_path):
    words = ["train", "method=ant", f"balancing={balancing}", "ranges.num_ranges=3", *TINY_TRAIN,
             *(["balancing.refresh_every=5"] if balancing == "nash_mtl" else [])]  # fmt: skip
    two, _ = trained(words, tmp_path / "two")
    (tmp_path / "one").mkdir()
    check_equal(done(words, tmp_path / "one"), two)


@pytest.mark.slow
def test_a_shared_out_model_trains_as_a_whole_one_and_resumes_in_one_process(tmp_path):
    words = [*WORDS, "snapshots.every=6", "progress.validate.every=6",
             "progress.validate.preview=false"]  # fmt: skip
    shards = [*words, "compute.strategy=fsdp"]
    (tmp_path / "one").mkdir()
    one = done(words, tmp_path / "one")
    two, text = trained(shards, tmp_path / "two")
    assert "no preview" not in text
    check_equal(one, two)
    programs = pair(shards, tmp_path / "three", SLOW_STEP)
    programs[0].wait_for(lambda: [*tmp_path.glob("three/runs/*/*/*/checkpoints/last.ckpt")])
    for program in programs:
        program.kill()
    code, text = run(words, tmp_path / "three")
    assert code == 0, text
    assert "(from step " in text
    check_equal(one, next(tmp_path.glob("three/runs/scratch/train/*")))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_is_heard_while_the_other_is_not_there_yet(rank, tmp_path):
    say = "import deme.training.distributed as t\nreal = t.init_distributed\ndef init(device): print('joining', flush=True); return real(device)\nt.init_distributed = init\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = start(WORDS, tmp_path, environment(rank, port) + say)
    program.wait_for(lambda: "joining" in program.text)
    program.signal(signal.SIGTERM)
    assert program.wait(60) == 75, program.text
    assert "Traceback" not in program.text


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_with_one_message(lost, tmp_path):
    programs = pair(WORDS, tmp_path, SLOW_STEP)
    programs[0].wait_for(
        lambda: any(
            p.read_text().count("\n") > 1 for p in tmp_path.glob("runs/*/*/*/metrics.jsonl")
        )
    )
    programs[lost].kill()
    left = programs[1 - lost]
    assert left.wait(30) == 4, left.text  # alone it takes two seconds
    assert left.text.count("deme: another process of this run ended or cannot be reached") == 1
    assert "Traceback" not in left.text


def test_what_one_process_cannot_do_all_say(tmp_path):
    cases = [
        ([*WORDS, "batch_size=15"], "", 2, "batch_size=15 is that of all 2 processes together", "type: batch_size=14"),
        (["train", "method=ant", "balancing=nash_mtl", *TINY_TRAIN, "compute.strategy=fsdp"], "", 2,
         "balancing=nash_mtl needs whole gradients", "type: compute.strategy=ddp"),
        (WORDS, "import deme.training.fit as f\nf.step_of = lambda path: 3\n", 4, "checkpoints of different steps: 0, 3",
         "paths.runs must be on a disk that all of them see"),
        (["reproduce", str(Path(__file__).parents[2] / "experiments/digits")], "", 2, "deme reproduce starts processes by itself", "type: jobs=<n>"),
    ]  # fmt: skip
    for index, (words, second, code, *parts) in enumerate(cases):
        found, text = codes(pair(words, tmp_path / str(index), second=second))
        assert found == [code, code], text
        assert all(part in text for part in parts), text
        assert text.count("deme: ") == (2 if words[0] == "reproduce" else 1), text
        assert "Traceback" not in text


@pytest.mark.parametrize("fails", [0, 1])
def test_a_process_that_fails_before_training_does_not_leave_the_other_waiting(fails, tmp_path):
    broken = "import deme.builders as c\nfrom deme.system.errors import MissingInput\ndef no(*a): raise MissingInput('no disk here')\nc.check_images = no\n"
    programs = pair(
        WORDS,
        tmp_path,
        *(
            ("", broken)
            if fails
            else (f"if os.environ['RANK'] == '0':\n exec({broken!r}, {{}})\n",)
        ),
    )
    found, text = codes(programs)
    assert found == [3, 3], text
    source = f"process {fails} of 2: " * bool(fails)
    assert f"deme: {source}no disk here" in programs[0].text
    assert text.count("deme: ") == 1
    assert "Traceback" not in text


def test_a_sweep_of_two_processes_trains_every_job_together(tmp_path):
    words = ["train", "-m", "method=deme", "expert=0,9,1", *TINY_EXPERTS, "num_steps=2"]
    found, text = codes(pair(words, tmp_path))
    assert found == [2, 2], text
    assert text.count("trained runs/") == 2
    finished = [
        json.loads(p.read_text())["state"]
        for p in tmp_path.glob("runs/scratch/train/*/status.json")
    ]
    assert finished == ["done", "done"]


def test_torchrun_of_one_process_is_as_without(tmp_path):
    words = ["train", *TINY_TRAIN]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    code, text = run(words, tmp_path, environment(0, 1, size=1))
    assert code == 0, text
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    assert results(run_dir) == expected


def torchrun(words, folder):
    """Start torchrun itself with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "deme", *words]  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_equals_one_process_stops_on_a_signal_resumes_and_ends_with_a_killed_one(tmp_path):
    words = [*WORDS, "num_steps=400", "progress.checkpoint_every=100000"]
    (tmp_path / "one").mkdir()
    one = done(words, tmp_path / "one")
    undisturbed, _ = trained(words, tmp_path / "two")
    check_equal(one, undisturbed)

    def begun():
        files = [*tmp_path.glob("three/runs/*/*/*/metrics.jsonl")]
        return files and files[0].read_text().count("\n") > 20

    def wait_for_steps(program):
        end = time.monotonic() + 120
        while not begun() and program.poll() is None and time.monotonic() < end:
            time.sleep(0.05)

    (tmp_path / "three").mkdir()
    program = torchrun(words, tmp_path / "three")
    wait_for_steps(program)
    program.send_signal(signal.SIGTERM)  # torchrun passes it on
    text, _ = program.communicate(timeout=60)
    (run_dir,) = tmp_path.glob("three/runs/scratch/train/*")
    assert json.loads((run_dir / "status.json").read_text())["state"] == "preempted", text
    program = torchrun(words, tmp_path / "three")
    text, _ = program.communicate(timeout=300)
    assert program.returncode == 0, text
    assert "(from step " in text
    assert results(run_dir) == results(undisturbed)
    shutil.rmtree(tmp_path / "three")
    (tmp_path / "three").mkdir()
    program = torchrun(words, tmp_path / "three")
    wait_for_steps(program)
    children = subprocess.run(
        ["pgrep", "-P", str(program.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    text, _ = program.communicate(timeout=20)  # torchrun waits for the others, too
    assert program.returncode == 1, text
