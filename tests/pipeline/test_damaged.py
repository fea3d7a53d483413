"""Finished runs that lost outputs, and run directories that go away under the work."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from deme.models.layout import UNET
from deme.runs import Run, Suite, compose_stage
from deme.system import read_json, write_json
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
        users[stage], copy, 4, f"deme: {place} is damaged: {name} ", "to make it again: deme "
    )
    command = shlex.split(text[text.index("again: deme ") :])[2:]
    code, text = run(command, copy)
    assert code == 0, text
    assert f"{place} is damaged: {name} " in text
    assert results(run_dir) == expected
    code, text = run(command, copy)
    assert (code, "done already" in text) == (0, True)


STAGES = {
    "train": [],
    "gradient": ["train", "method=ant", "ranges=gradient", "ranges.num_bins=4", "ranges.num_images=2048", *TINY_TRAIN],
    "merge": [],
    "search": ["search", *TINY_SEARCH],
    "evaluate": [],
    "improve": ["improve", "model=asset:digits_base", "data=digits", "out=better", "num_ranges=2", "hours=1", "search.step=1",
                "search.num_images=50", "num_images=50", "batch_size=50", "sample_seeds=[0]", "sampler.num_inference_steps=2",
                "metrics.replicates=5", "progress.preview.num_images=4", "progress.preview.num_inference_steps=2"],
}  # fmt: skip
FEW_STEPS = "import deme.commands.improve_budget as stage; stage.MAX_STEPS = stage.MIN_STEPS\n"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_each_output_that_was_cut_is_made_again(stage, copy, made):
    words = STAGES[stage]
    if words:
        if stage == "search":
            experts = sorted(copy.glob("runs/scratch/train/*"))
            words = [
                *words,
                f"inputs.experts=[{','.join(str(e.relative_to(copy)) for e in experts)}]",
            ]
        before = {*copy.glob("runs/*/*/*")}
        code, text = run(words, copy, FEW_STEPS)
        assert code == 0, text
        (run_dir,) = {*copy.glob("runs/*/*/*")} - before
    else:
        run_dir = min((copy / f"runs/scratch/{stage}").iterdir())
        words = json.loads((run_dir / "run.json").read_text())["command"]
    outputs = json.loads((run_dir / "status.json").read_text())["outputs"]
    expected = results(run_dir)
    for name in outputs:
        cut(run_dir / name)
        code, text = run(words, copy, FEW_STEPS)
        assert code == 0, text
        assert f"is damaged: {name} " in text
        assert (run_dir / name).stat().st_size == outputs[name] or "seconds" in (
            run_dir / name
        ).read_text()
        assert results(run_dir) == expected


def test_a_cut_file_that_the_work_would_read_again_is_deleted(in_tmp):
    def work(run):
        if not (run.path / "plan.json").exists():
            write_json(run.path / "plan.json", {"steps": 1})
        read_json(run.path / "plan.json")

    planned = Run.planned(compose_stage("train", []))
    planned.execute(work)
    cut(planned.path / "plan.json")
    cut(planned.path / "plan.json")
    assert planned.state == "damaged"
    planned.execute(work)
    assert (planned.state, read_json(planned.path / "plan.json")) == ("done", {"steps": 1})


def test_a_file_elsewhere_that_a_run_names_as_its_output_is_not_deleted(copy, made):
    (copy / "precious").write_text("precious")
    change(copy / made[2], outputs={"../../../../precious": 1})
    code, text = run(made[1], copy)
    assert code == 2, text
    assert (copy / "precious").read_text() == "precious"


def test_a_damaged_run_names_the_directory_that_it_is_made_again_in(copy, made):
    merged = min((copy / "runs/scratch/merge").iterdir())
    (merged / f"weights/merged/{UNET}").unlink()
    words = ["evaluate", f"inputs.weights={merged}", *TINY_EVALUATE]
    fails(words, copy, 4, f"type, in {made[0]}, to make it again: deme merge ")


def test_names_in_a_foreign_run_that_cannot_be_paths_are_no_crash(copy, made):
    merged = min((copy / "runs/scratch/merge").iterdir())
    record = json.loads((merged / "run.json").read_text())
    record["inputs"]["experts"] = {"y" * 5000: "0" * 64}
    (merged / "run.json").write_text(json.dumps(record))
    code, text = run(["export", f"run={merged}", "out=exported"], copy)
    assert code == 0, text
    evaluated = copy / made[2]
    record = json.loads((evaluated / "run.json").read_text())
    (evaluated / "run.json").write_text(json.dumps({**record, "directory": "x" * 5000}))
    config = (evaluated / "config.yaml").read_text()
    assert "asset:digits_base" in config
    (evaluated / "config.yaml").write_text(
        config.replace("asset:digits_base", "~nobody-of-this-name/x")
    )
    fails(["verify", f"run={made[2]}"], copy, 3, "cannot be a path")


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
    expert = next(
        run_dir for run_dir in runs if "-e1-" in str(run_dir) and "/train/" in str(run_dir)
    )
    evaluated = next(run_dir for run_dir in runs if "evaluate/before" in str(run_dir))
    (expert / WEIGHTS).unlink()
    (evaluated / "metrics.json").unlink()
    code, text = run(["plan", "small.yaml", "all=true"], tmp_path)
    assert code == 0, text
    assert "1 of 5 runs done, 2 damaged, 2 waiting for other runs" in text
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


AT_THE_HASHES = """
import shutil
from deme.system import files
digest = files.sha256
def moves(path):
    if path.parent.name == "weights" and not path.is_absolute():
        shutil.move(path.parent.parent, path.parent.parent.with_name("elsewhere"))
    return digest(path)
files.sha256 = moves
"""
IN_THE_MERGE = """
import shutil
from deme.system import tensors
write = tensors.write_stream
def moves(path, *more):
    if "merge" in path.parts:
        folder = next(p for p in path.parents if p.parent.name == "merge")
        shutil.move(folder, folder.with_name("elsewhere"))
    return write(path, *more)
tensors.write_stream = moves
import deme.merging.stream as s
s.write_stream = moves
"""


@pytest.mark.parametrize(
    ("stage", "patch"), [("train", AT_THE_HASHES), ("merge", AT_THE_HASHES), ("merge", IN_THE_MERGE)]
)  # fmt: skip
def test_a_run_directory_that_goes_away_at_its_end_is_not_made_again(stage, patch, made, tmp_path):
    given = ",".join(map(str, sorted(made[0].glob("runs/scratch/train/*"))))
    words = {"train": ["train", *TINY_TRAIN], "merge": ["merge", f"inputs.experts=[{given}]"]}[
        stage
    ]
    fails(words, tmp_path, 4, "was moved, deleted or replaced", patch=patch)
    (left,) = tmp_path.glob(f"runs/scratch/{stage}/*")
    assert left.name == "elsewhere"


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


@pytest.mark.parametrize(
    "stage", ["evaluate", "search", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_a_run_directory_that_goes_away_ends_other_work_in_it(stage, made, tmp_path):
    given = ",".join(map(str, sorted(made[0].glob("runs/scratch/train/*"))))
    words, sign = {
        "evaluate": (["evaluate", *TINY_EVALUATE], "samples/features_*.safetensors"),
        "processes": (
            ["evaluate", *TINY_EVALUATE, "progress.processes=2"],
            "samples/features_*.safetensors",
        ),
        "search": (["search", f"inputs.experts=[{given}]", *TINY_SEARCH], "evaluations.jsonl"),
    }[stage]
    stage = words[0]
    program = start(words, tmp_path, SLOW_IMAGES)
    program.wait_for(lambda: list(tmp_path.glob(f"runs/scratch/{stage}/*/{sign}")))
    (run_dir,) = tmp_path.glob(f"runs/scratch/{stage}/*")
    moved(run_dir)
    assert program.wait() == 4, program.text
    assert f"{run_dir.relative_to(tmp_path)} was moved, deleted or replaced" in program.text
    assert "Traceback" not in program.text
    assert not run_dir.exists()
