"""Sweeps whose jobs Hydra's launchers start in other processes: the results of one process, every failure named, every stop saved."""

import importlib.util
import json
import os
import signal

import pytest

from deme.cli.app import main
from tests.pipeline.program import ROOT, TINY_TRAIN, done, run, start
from tests.pipeline.test_resume import results

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray"],
}
RAY = pytest.param(
    "ray",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed"),
    ],
)
# joblib's processes import once, those of submitit for each job
EACH = ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), RAY]
LONG = [*TINY_TRAIN, "num_steps=150", "batch_size=128", "progress.checkpoint_every=1000000"]


def runs_of(folder):
    return {path.name: path for path in folder.glob("runs/scratch/train/*")}


def state(path):
    return json.loads((path / "status.json").read_text())["state"]


def begun(folder, count, rows=5):
    """Whether so many jobs train."""
    files = [*folder.glob("runs/scratch/train/*/metrics.jsonl")]
    return len(files) == count and all(f.read_text().count("\n") > rows for f in files)


def processes(folder):
    """The process of every job that has begun, by its swept values."""
    (file,) = folder.glob("runs/.multirun/jobs-*.starts")
    starts = [json.loads(line) for line in file.read_text().splitlines()]
    return {" ".join(start["swept"]): start["pid"] for start in starts}


def held(folder, count):
    """Pause every job that trains, so that none ends before the last begins; whether all do."""
    paused = []
    for path in runs_of(folder).values():
        metrics = path / "metrics.jsonl"
        if metrics.exists() and metrics.read_text().count("\n") > 5:
            (swept,) = (s for s in processes(folder) if f"-{s.replace('seed=', 's')}-" in path.name)
            os.kill(processes(folder)[swept], signal.SIGSTOP)
            paused.append(path)
    return len(paused) == count


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {seed: results(done(["train", *LONG, f"seed={seed}"], folder)) for seed in (0, 1)}


@pytest.mark.parametrize("launcher", EACH)
def test_a_failed_job_stops_no_other_and_decides_the_exit_code(launcher, tmp_path):
    words = [
        "train",
        "-m",
        *LAUNCHERS[launcher],
        *TINY_TRAIN,
        "ranges.num_ranges=2",
        "expert=9,0,1",
    ]
    code, text = run(words, tmp_path)
    assert code == 2, text
    assert text.count("deme: expert=9: ") == 1
    assert "with 2 ranges it must lie in 0..1" in text
    assert "Traceback" not in text
    found = runs_of(tmp_path)
    assert [state(path) for path in found.values()] == ["done", "done"]
    (tmp_path / "one").mkdir()
    for expert in (0, 1):
        alone = done(
            ["train", *TINY_TRAIN, "ranges.num_ranges=2", f"expert={expert}"], tmp_path / "one"
        )
        assert results(alone) == results(found[alone.name])
    assert not [*tmp_path.glob("runs/.multirun/jobs-*")]


@pytest.mark.parametrize("launcher", EACH)
def test_a_stop_is_saved_by_every_job_and_the_same_command_goes_on(launcher, undisturbed, tmp_path):
    words = ["train", "-m", *LAUNCHERS[launcher], *LONG, "seed=0,1"]
    program = start(words, tmp_path)
    program.wait_for(lambda: held(tmp_path, 2))
    for pid in processes(tmp_path).values():
        os.kill(pid, signal.SIGCONT)
    program.signal(signal.SIGTERM)
    assert program.wait(120) == 75, program.text
    assert "Traceback" not in program.text
    for path in runs_of(tmp_path).values():
        assert state(path) == "preempted"
        assert (path / "checkpoints" / "last.ckpt").exists()
    assert not [*tmp_path.glob("runs/.multirun/jobs-*")]
    code, text = run(words, tmp_path)
    assert code == 0, text
    found = runs_of(tmp_path)
    assert [results(found[name]) for name in sorted(found)] == [undisturbed[0], undisturbed[1]]


def test_a_job_that_has_not_begun_when_its_sweep_is_stopped_did_not_fail(tmp_path):
    words = ["train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", *LONG, "seed=0,1,2"]
    program = start(words, tmp_path)
    program.wait_for(lambda: begun(tmp_path, 1))
    program.signal(signal.SIGTERM)
    assert program.wait(120) == 75, program.text
    assert "killed" not in program.text
    assert [state(path) for path in runs_of(tmp_path).values()] == ["preempted"]


@pytest.mark.parametrize("launcher", EACH)
def test_a_killed_job_is_named_and_the_others_end_as_they_would(launcher, undisturbed, tmp_path):
    words = ["train", "-m", *LAUNCHERS[launcher], *LONG, "seed=0,1"]
    program = start(words, tmp_path)
    program.wait_for(lambda: begun(tmp_path, 2))
    os.kill(processes(tmp_path)["seed=1"], signal.SIGKILL)
    code = program.wait(300)
    if launcher == "ray":  # it starts the job again by itself
        assert code == 0, program.text
    else:
        assert code == 4, program.text
        assert "deme: seed=1: its process was killed" in program.text
        assert "Traceback" not in program.text
    code, text = run(words, tmp_path)
    assert code == 0, text
    found = runs_of(tmp_path)
    assert [results(found[name]) for name in sorted(found)] == [undisturbed[0], undisturbed[1]]


FAILURES = {  # swept values, of which the first fail, -> exit code and message
    "missing input": (["model=diffusers", "model.path=/nowhere/model,asset:digits_base"], 3, "/nowhere/model"),
    "loss of NaN": (["optimizer.lr=900,0.0005", "gradient_clip=null"], 4, "NaN or infinite"),
    "out of memory": (["batch_size=16,8"], 4, "out of memory"),
}  # fmt: skip
# for the jobs of a batch of 16: all of submitit's processes and joblib's import this module
OUT_OF_MEMORY = """
import deme.training.module as m
step = m.DiffusionModule.training_step
def full(self, batch, index):
    if len(batch) == 16:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return step(self, batch, index)
m.DiffusionModule.training_step = full
"""


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("launcher", [None, *EACH])
def test_every_failure_is_shown_with_its_exit_code_and_the_other_job_is_done(
    launcher, failure, tmp_path
):
    swept, code, message = FAILURES[failure]
    words = [word for word in TINY_TRAIN if word.partition("=")[0] not in "".join(swept)]
    patch = OUT_OF_MEMORY if failure == "out of memory" else ""
    if patch and launcher is not None:
        (tmp_path / "sitecustomize.py").write_text(PATCH_WHEN_IMPORTED.format(patch=patch))
        patch = f"import os\nos.environ['PYTHONPATH'] = {os.pathsep.join([str(tmp_path), str(ROOT)])!r}\n"
    found, text = run(
        ["train", "-m", *LAUNCHERS.get(launcher, []), *words, *swept], tmp_path, patch
    )
    assert found == code, text
    (line,) = (line for line in text.splitlines() if line.startswith("deme: "))
    assert message in line, text
    assert "Traceback" not in text
    assert sorted(state(path) for path in runs_of(tmp_path).values())[0] == "done"


PATCH_WHEN_IMPORTED = """
import builtins
real = builtins.__import__
def imported(name, *args, **more):
    module = real(name, *args, **more)
    if name == "deme.training.fit" and builtins.__import__ is imported:
        builtins.__import__ = real
        exec({patch!r}, {{}})
    return module
builtins.__import__ = imported
"""


def test_a_launcher_that_is_not_installed_is_one_message(in_tmp, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "-m", "hydra/launcher=ray", "seed=0,1"]) == 3
    assert "pip install 'hydra-ray-launcher>=" in capsys.readouterr().err
