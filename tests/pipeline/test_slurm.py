"""A real SLURM on this machine: launchers, srun, requeued and killed workers give the numbers of one process."""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from tests import slurm
from tests.pipeline.program import ROOT, TINY_EXPERTS, TINY_TRAIN, done, run
from tests.pipeline.test_launchers import LONG, begun, runs_of, state
from tests.pipeline.test_resume import results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm.is_installed(), reason="SLURM is not installed"),
]
DEME = [sys.executable, "-m", "deme"]
SMOKE = ROOT / "experiments" / "digits" / "smoke.yaml"
JOB = ["launcher=slurm", "launcher.hours=0.2", "launcher.memory=1.5"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    environment = slurm.start(folder, 4)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    subprocess.run(["scancel", "--user=root"], check=False, env=os.environ | environment)
    slurm.stop(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The metrics of the smoke suite, made by one process."""
    folder = tmp_path_factory.mktemp("alone")
    code, text = run(["reproduce", str(SMOKE)], folder)
    assert code == 0, text
    return metrics(folder)


def metrics(folder):
    return {
        str(file.relative_to(folder)): json.loads(file.read_text())
        for file in folder.glob("runs/*/*/*/metrics.json")
    }


def wait_for(happened, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.2)


def queue():
    return slurm.ask("squeue", "--array", "--noheader", "--format=%i %T").splitlines()


def sbatch(folder, words, *options):
    """Queue a job that runs `deme`, and return its id."""
    command = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={folder}/out.txt", *options,
               f"--wrap=exec {shlex.join([*DEME, *words])}"]  # fmt: skip
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_four_experts_by_the_launcher_of_submitit(cluster, tmp_path):
    words = ["train", "-m", *TINY_TRAIN, "method=deme", "ranges.num_ranges=4"]
    slurm_words = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.mem_gb=1",
        "hydra.launcher.timeout_min=5",
    ]
    (tmp_path / "one").mkdir()
    code, text = run([*words, "expert=range(4)"], tmp_path / "one")
    assert code == 0, text
    code, text = run([*words, *slurm_words, "expert=range(5)"], tmp_path)
    assert code == 2, text
    assert "deme: expert=4: " in text
    found, expected = runs_of(tmp_path), runs_of(tmp_path / "one")
    assert {name: results(path) for name, path in found.items()} == {
        name: results(path) for name, path in expected.items()
    }


def test_two_tasks_of_srun_train_together(cluster, tmp_path):
    words = ["train", *TINY_EXPERTS, "expert=1"]
    command = ["srun", "--ntasks=2", "--mem=1500", *DEME, *words]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count(" in 2 processes") == 1
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    assert state(run_dir) == "done"


def test_what_is_typed_in_an_interactive_shell_is_alone(cluster, tmp_path):
    words = shlex.join([*DEME, "train", *TINY_EXPERTS, "expert=1"])
    command = ["script", "--quiet", "--return", "--command",
               f"srun --ntasks=2 --mem=1500 --pty bash -c {shlex.quote(f'test $SLURM_PROCID = 0 && {words}')}", "/dev/null"]  # fmt: skip
    found = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert "trained runs/" in found.stdout, found.stdout
    assert " in 2 processes" not in found.stdout


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_signal_is_exit_75_and_the_requeued_job_gives_the_undisturbed_numbers(
    cluster, signal, tmp_path
):
    words = ["train", *LONG, "seed=0"]
    (tmp_path / "one").mkdir()
    expected = results(done(words, tmp_path / "one"))
    job = sbatch(tmp_path, words, "--mem=1500", "--time=10")
    wait_for(lambda: begun(tmp_path, 1))
    subprocess.run(["scancel", "--batch", f"--signal={signal}", job], check=True)
    wait_for(lambda: [*tmp_path.glob("runs/*/*/*/checkpoints/last.ckpt")])
    wait_for(lambda: not queue())
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    assert "(from step " in (tmp_path / "out.txt").read_text()
    assert results(run_dir) == expected


def start_reproduce(folder, *words):
    return subprocess.Popen(
        [*DEME, "reproduce", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_suite_is_the_same_with_a_killed_and_a_requeued_worker(cluster, alone, tmp_path):
    program = start_reproduce(tmp_path, str(SMOKE), *JOB, "jobs=3")
    wait_for(lambda: len([line for line in queue() if line.endswith("RUNNING")]) == 3)
    wait_for(lambda: [*tmp_path.glob("runs/*/train/*/status.json")])
    first = min(line.split()[0] for line in queue() if line.endswith("RUNNING"))
    array = first.partition("_")[0]
    subprocess.run(["scancel", "--signal=KILL", "--full", f"{array}_1"], check=True)
    subprocess.run(["scancel", "--signal=USR2", f"{array}_2"], check=True)
    again = start_reproduce(tmp_path, str(SMOKE), *JOB, "jobs=3", "launcher.wait=false")
    text, _ = again.communicate(timeout=60)
    assert again.returncode == 0, text
    assert "already queued: workers: " in text
    text, _ = program.communicate(timeout=400)
    assert program.returncode == 0, text
    assert metrics(tmp_path) == alone
    wait_for(lambda: not queue())
    code, text = run(["plan", str(SMOKE)], tmp_path)
    assert (code, "23 of 23 runs done" in text) == (0, True)


def test_what_sbatch_refuses_is_one_message(cluster, tmp_path):
    program = start_reproduce(tmp_path, str(SMOKE), *JOB, "launcher.partition=nowhere")
    text, _ = program.communicate(timeout=60)
    assert program.returncode == 2, text
    assert "nowhere" in text
    assert "Traceback" not in text
    assert not queue()


SUITE = """
suite: own
baseline: before
metrics: [loss]
finetune_seeds: [0]
sample_seeds: [100]
common:
  train: [num_steps=4, batch_size=16, progress.preview.num_images=4, progress.preview.num_inference_steps=2]
  evaluate: [metrics=loss, metrics.loss.draws=1, metrics.replicates=10]
rows:
  - {name: before, label: before, evaluate: []}
  - {name: two, label: two processes, train: [], job: {hours: 0.1}, evaluate: []}
  - {name: bad, label: fails, train: [optimizer.lr=900, gradient_clip=null, num_steps=20], job: own, evaluate: []}
"""


def test_a_failed_run_is_said_once_and_kept_and_others_are_done(cluster, tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    program = start_reproduce(tmp_path, "suite.yaml", *JOB, "logger=csv")
    text, _ = program.communicate(timeout=300)
    assert program.returncode == 4, text
    assert "NaN" in text
    assert "1 runs depend on failed ones" in text
    assert "retry=failed" in text
    states = {state(path): path for path in tmp_path.glob("runs/own/train/*")}
    assert sorted(states) == ["done", "failed"]
    sent = {path.name for path in tmp_path.glob("runs/own/tracking/csv/own-*")}
    assert f"own-train-{states['done'].name}" in sent  # of a job of its own, too
    queued = json.loads((tmp_path / "runs/own/.slurm/queue.json").read_text())
    assert len(queued["own"]) == 2
    before = (states["failed"] / "status.json").read_text()
    code, text = run(["reproduce", "suite.yaml"], tmp_path)
    assert code == 4, text
    assert (states["failed"] / "status.json").read_text() == before


def test_twenty_killed_workers_and_a_lost_node_change_nothing(cluster, alone, tmp_path):
    draw, kills = random.Random(0), 0
    deadline = time.monotonic() + 1500
    while len(metrics(tmp_path)) < len(alone) or kills < 20:
        assert time.monotonic() < deadline, f"{kills} kills"
        if not queue():
            if len(metrics(tmp_path)) == len(alone):  # done before the last kill: begin again
                shutil.rmtree(tmp_path / "runs")
            program = start_reproduce(tmp_path, str(SMOKE), *JOB, "jobs=2", "launcher.wait=false")
            text, _ = program.communicate(timeout=60)
            assert program.returncode == 0, text
        time.sleep(draw.uniform(1, 12))
        running = [line.split()[0] for line in queue() if line.endswith("RUNNING")]
        if running and kills < 20:
            subprocess.run(
                ["scancel", "--signal=KILL", "--full", draw.choice(running)], check=False
            )
            kills += 1
        if kills == 10:
            host = os.uname().nodename.partition(".")[0]
            for state_of_node in ("state=down", "state=resume"):
                reason = ["reason=test"] if state_of_node == "state=down" else []
                command = ["scontrol", "update", f"nodename={host}", state_of_node, *reason]
                subprocess.run(command, check=False)  # it may be back already
                time.sleep(2)
            kills += 1
    assert metrics(tmp_path) == alone
