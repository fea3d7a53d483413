"""Finished runs that lost outputs, and run directories that go away under the work."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from deme.models.layout import UNET
from deme.runs import Suite
from tests.pipeline.program import (
    TINY_EVALUATE,
    TINY_EXPERTS,
    TINY_SEARCH,
    TINY_TRAIN,
    done,
    run,
    start,
)
from tests.pipeline.test_errors import fails
from tests.pipeline.test_resume import SLOW_STEP, results

WEIGHTS = f"weights/ema/{UNET}"
EXPERTS = [*TINY_EXPERTS, "num_steps=2"]


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def change(run_dir, **values):
    file = run_dir / "status.json"
    status = {**json.loads(file.read_text()), **values}
    file.write_text(
        json.dumps({name: value for name, value in status.items() if value is not None})
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two experts, their merge and its evaluation."""
    folder = tmp_path_factory.mktemp("made")
    experts = [done(["train", f"expert={i}", *EXPERTS], folder) for i in (0, 1)]
    given = f"inputs.experts=[{','.join(str(e.relative_to(folder)) for e in experts)}]"
    merged = done(["merge", given], folder)
    words = ["evaluate", f"inputs.weights={merged.relative_to(folder)}", *TINY_EVALUATE]
    return folder, words, done(words, folder).relative_to(folder)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[0] / "runs", tmp_path / "runs", symlinks=True)
    return tmp_path


@pytest.mark.parametrize("damage", [Path.unlink, cut])
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("train", WEIGHTS),
        ("train", "metrics.jsonl"),
        ("merge", f"weights/merged/{UNET}"),
        ("evaluate", "metrics.json"),
        ("evaluate", "replicates.json"),
        ("evaluate", "moments/digits.safetensors"),
    ],
)  # fmt: skip
def test_a_run_that_lost_an_output_is_named_and_its_command_makes_it_again(
    stage, name, damage, copy, made
):
    run_dir = min((copy / f"runs/scratch/{stage}").iterdir())
    expected = results(run_dir)
    damage(run_dir / name)
    place = run_dir.relative_to(copy)
    users = {
        "train": ["merge", f"inputs.experts=[{place}]"],
        "merge": ["evaluate", f"inputs.weights={place}", *TINY_EVALUATE],
        "evaluate": ["compare", str(place), str(place)],
    }
    text = fails(
        users[stage], copy, 4, f"deme: {place} is damaged: {name} ", "type, to make it again: deme "
    )
    command = shlex.split(text[text.index("again: deme ") :])[2:]
    code, text = run(command, copy)
    assert code == 0, text
    assert f"{place} is damaged: {name} " in text
    assert results(run_dir) == expected
    code, text = run(command, copy)
    assert (code, "done already" in text) == (0, True)


def test_runs_of_earlier_versions_recorded_no_outputs_and_count_as_done(copy, made):
    _, words, evaluated = made
    for status in copy.glob("runs/*/*/*/status.json"):
        change(status.parent, outputs=None)
    (copy / evaluated / "moments" / "loss.safetensors").unlink()
    code, text = run(words, copy)
    assert code == 0, text
    assert "done already" in text


def test_a_finished_run_is_only_read_when_its_command_is_typed_again(copy, made):
    """It may lie on a read-only disk."""
    before = {path: path.stat().st_mtime_ns for path in [copy / "runs", *copy.glob("runs/**/*")]}
    train, merge = (min((copy / f"runs/scratch/{stage}").iterdir()) for stage in ("train", "merge"))
    for run_dir in (train, merge, copy / made[2]):
        (command,) = [json.loads((run_dir / "run.json").read_text())["command"]]
        code, text = run(command, copy)
        assert code == 0, text
    for words in (
        ["compare", str(made[2]), str(made[2])],
        ["verify", f"run={made[2]}", "num_images=10"],
    ):
        code, text = run(words, copy)
        assert code == 0, text
    assert {
        path: path.stat().st_mtime_ns for path in [copy / "runs", *copy.glob("runs/**/*")]
    } == before


SUITE = """
suite: small
baseline: before
metrics: [loss]
finetune_seeds: [0]
sample_seeds: [100]
common:
  train: [num_steps=2, batch_size=16, progress.preview.num_inference_steps=2, progress.preview.num_images=4]
  evaluate: [num_images=20, batch_size=20, sampler.num_inference_steps=2, metrics.replicates=5, metrics.loss.draws=1]
rows:
  - {name: before, label: before, evaluate: []}
  - {name: deme, label: merged, train: [method=deme, ranges.num_ranges=2], experts: [0, 1], merge: [inputs.experts=null], evaluate: []}
"""


def test_plan_says_what_is_damaged_and_reproduce_makes_it_again(tmp_path):
    (tmp_path / "small.yaml").write_text(SUITE)
    code, text = run(["reproduce", "small.yaml"], tmp_path)
    assert code == 0, text
    runs = sorted(tmp_path.glob("runs/small/*/*"))
    assert len(runs) == 5
    expected = {run_dir: results(run_dir) for run_dir in runs}
    table = (tmp_path / "results" / "small.md").read_bytes()
    expert = next(run_dir for run_dir in runs if "train/deme-e1" in str(run_dir))
    evaluated = next(run_dir for run_dir in runs if "evaluate/before" in str(run_dir))
    (expert / WEIGHTS).unlink()
    (evaluated / "metrics.json").unlink()
    code, text = run(["plan", "small.yaml", "all=true"], tmp_path)
    assert code == 0, text
    assert "1 of 5 runs done, 2 damaged, 2 waiting for others" in text
    assert "stale" not in text
    code, text = run(["table", "small.yaml"], tmp_path)
    assert code == 0, text
    assert "2 evaluations are not measured yet" in text
    assert (tmp_path / "results" / "small.md").read_bytes() == table  # kept
    code, text = run(["reproduce", "small.yaml"], tmp_path)
    assert code == 0, text
    assert text.count("is damaged: ") == 2
    assert {run_dir: results(run_dir) for run_dir in runs} == expected
    assert (tmp_path / "results" / "small.md").read_bytes() == table
    assert len(Suite.read(tmp_path / "small.yaml", tmp_path / "runs").stale()) == 0


# Run directories that go away


def moved(run_dir):
    run_dir.rename(run_dir.with_name("elsewhere"))


def deleted(run_dir):
    shutil.rmtree(run_dir, ignore_errors=True)  # a file may appear meanwhile
    shutil.rmtree(run_dir, ignore_errors=True)


def replaced(run_dir):
    shutil.copytree(
        run_dir,
        run_dir.with_name("copy"),
        ignore=lambda _, names: [n for n in names if n.endswith(".tmp")],
    )
    moved(run_dir)
    run_dir.with_name("copy").rename(run_dir)


@pytest.mark.parametrize("goes", [moved, deleted, replaced])
def test_a_run_directory_that_goes_away_ends_the_training_in_it(goes, tmp_path):
    words = ["train", *TINY_TRAIN, "num_steps=2000"]
    program = start(words, tmp_path, SLOW_STEP)
    program.wait_for(lambda: list(tmp_path.glob("runs/scratch/train/*/checkpoints/last.ckpt")))
    (run_dir,) = tmp_path.glob("runs/scratch/train/*")
    goes(run_dir)
    before = sorted(run_dir.rglob("*"))
    assert program.wait() == 4, program.text
    message = program.text[program.text.index("deme: ") :]
    assert f"{run_dir.relative_to(tmp_path)} was moved, deleted or replaced" in message
    assert len(message.splitlines()) <= 3
    assert "Traceback" not in program.text
    assert sorted(run_dir.rglob("*")) == before  # nothing of it is made again


SLOW_IMAGES = """
import time
from deme.evaluation import objective, sources
generate = sources.generate_images
def slow(*args, **more):
    for batch in generate(*args, **more):
        time.sleep(0.5)
        yield batch
sources.generate_images = objective.generate_images = slow
"""


@pytest.mark.parametrize("stage", ["evaluate", "search"])
def test_a_run_directory_that_goes_away_ends_other_work_in_it(stage, made, tmp_path):
    given = ",".join(map(str, sorted(made[0].glob("runs/scratch/train/*"))))
    words, sign = {
        "evaluate": (["evaluate", *TINY_EVALUATE], "samples/features_*.safetensors"),
        "search": (["search", f"inputs.experts=[{given}]", *TINY_SEARCH], "evaluations.jsonl"),
    }[stage]
    program = start(words, tmp_path, SLOW_IMAGES)
    program.wait_for(lambda: list(tmp_path.glob(f"runs/scratch/{stage}/*/{sign}")))
    (run_dir,) = tmp_path.glob(f"runs/scratch/{stage}/*")
    moved(run_dir)
    assert program.wait() == 4, program.text
    assert f"{run_dir.relative_to(tmp_path)} was moved, deleted or replaced" in program.text
    assert "Traceback" not in program.text
    assert not run_dir.exists()
