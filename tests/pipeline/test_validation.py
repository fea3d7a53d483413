"""A training that is judged while it goes: the same weights, a curve that repeats itself, and the loss that evaluations measure."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from deme.runs import sample_grids
from tests.pipeline.program import TINY_EXPERTS, TINY_TRAIN, done, run
from tests.pipeline.test_resume import DROPOUT, results

WORDS = ["train", "expert=1", *DROPOUT, *TINY_EXPERTS, "progress.log_every=2"]
JUDGED = ["progress.validate.every=3", "progress.validate.num_images=40"]
NAMES = ("held_out_loss", "held_out_loss/raw")
STEPS = [0, 3, 6, 9, 12]


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def held_out(run_dir: Path, name: str = NAMES[0]) -> list[tuple[int, float]]:
    return [(row["step"] + 1, row[name]) for row in rows_of(run_dir) if name in row]


def of_training(run_dir: Path) -> list[dict]:
    """The curve without what judging the model has added."""
    rows = [{k: v for k, v in row.items() if k not in NAMES} for row in rows_of(run_dir)]
    return [row for row in rows if len(row) > 1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An expert with dropout that is trained alone, and the same that is judged."""
    folders = [tmp_path_factory.mktemp(name) for name in ("alone", "judged")]
    return [done([*WORDS, *more], f) for f, more in zip(folders, ([], JUDGED), strict=True)]


def test_judging_changes_no_weight_no_random_number_and_no_name(pair):
    alone, judged = pair
    assert alone.name == judged.name
    found, expected = results(judged), results(alone)
    for name in expected:
        if name != "metrics.jsonl":
            assert found[name] == expected[name], name
    assert of_training(judged) == rows_of(alone)
    assert any(name.startswith("weights/raw") for name in expected)


def test_the_curve_has_both_kinds_of_weights_and_a_grid_beside_them(pair):
    _, judged = pair
    for name in NAMES:
        assert [step for step, _ in held_out(judged, name)] == STEPS
    averaged, raw = (dict(held_out(judged, name)) for name in NAMES)
    assert averaged[0] == raw[0]  # before the first step they are the same weights
    assert len({*averaged.values(), *raw.values()}) == 9
    grids = sample_grids(judged)
    assert list(grids) == STEPS
    for file in grids.values():
        with Image.open(file) as picture:
            picture.load()


KILLED = """
import os, signal
from deme.evaluation.validation import Validation
draw = Validation._draw
def killed(self, model, step):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    draw(self, model, step)
Validation._draw = killed
"""


@pytest.mark.parametrize("step", [0, 9])
def test_a_kill_while_it_is_judged_leaves_no_trace(pair, step, tmp_path):
    words = [*WORDS, *JUDGED]
    code, text = run(words, tmp_path, KILLED.format(step=step))
    assert code < 0, text
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert ("(from step 6)" in text) == (step > 0)
    (resumed,) = tmp_path.glob("runs/scratch/train/*")
    assert results(resumed) == results(pair[1])


KILLED_BY_ITS_FIRST_CHECKPOINT = """
import os, signal
from deme.training.callbacks import AtomicCheckpointIO
save = AtomicCheckpointIO.save_checkpoint
def killed(self, *args, **kwargs):
    save(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
AtomicCheckpointIO.save_checkpoint = killed
"""


@pytest.mark.slow
def test_checkpoints_by_minutes_resume_bit_for_bit(pair, tmp_path):
    """So do those of a training that is judged by minutes; only where its curve has a loss differs."""
    words = [*WORDS, "progress.checkpoint_every=1000", "progress.checkpoint_minutes=0.00001",
             "progress.validate.minutes=0.00001", "progress.validate.preview=false"]  # fmt: skip
    code, text = run(words, tmp_path, KILLED_BY_ITS_FIRST_CHECKPOINT)
    assert code < 0, text
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert "(from step 1)" in text
    (resumed,) = tmp_path.glob("runs/scratch/train/*")
    assert not sample_grids(resumed)
    assert [step for step, _ in held_out(resumed)] == [*range(13)]
    assert of_training(resumed) == rows_of(pair[0])
    weights = [
        {name: each for name, each in results(one).items() if name.startswith("weights/")}
        for one in (resumed, pair[0])
    ]
    assert weights[0] == weights[1]


def test_on_all_held_out_images_it_is_what_an_evaluation_measures(tmp_path):
    words = ["train", *TINY_TRAIN, "progress.validate.every=12", "progress.validate.num_images=9999"]  # fmt: skip
    trained = done([*words, "progress.validate.preview=false", "num_steps=2"], tmp_path)
    losses = [dict(held_out(trained, name))[2] for name in NAMES]
    for weights, loss in zip(("ema", "raw"), losses, strict=True):
        measured = done(
            ["evaluate", f"inputs.weights={trained}", f"run_weights={weights}", "metrics=loss", "data=digits",
             "metrics.loss.draws=1", "metrics.loss.num_ranges=4", "metrics.loss.seed=0", "metrics.replicates=2"],
            tmp_path,
        )  # fmt: skip
        entry = json.loads((measured / "metrics.json").read_text())["metrics"]["loss"]
        assert entry["value"] == pytest.approx(loss, rel=1e-6), weights


def test_what_is_said_of_such_a_run(pair, tmp_path):
    _, judged = pair
    last = held_out(judged)[-1][1]
    for words in (["show", str(judged)], ["show", str(judged), "json=true"]):
        code, text = run(words, tmp_path)
        assert code == 0, text
        if "json=true" in words:
            shown = json.loads(text[text.index("{") :])
            assert [each["steps"] for each in shown["held_out_loss"]] == [0, 12]
            assert shown["held_out_loss"][1]["value"] == last
            assert list(shown["sample_grids"]) == [str(step) for step in STEPS]
        else:
            assert "after 12 steps" in text
            assert "step-<n>.png, n = 0 3 6 9 12" in text
    code, text = run(["report", str(judged), "out=page.html"], tmp_path)
    if code == 0:
        assert "training loss and held-out loss" in (tmp_path / "page.html").read_text()
    assert code == 0, text


def test_images_of_which_none_can_be_held_out_are_refused(tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    Image.new("RGB", (8, 8), (7, 99, 200)).save(folder / "0.png")
    for number in range(1, 30):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    code, text = run(["train", "data=same/", *TINY_TRAIN, *JUDGED], tmp_path)
    assert code == 2
    assert "held out" in text
    assert "Traceback" not in text
    assert not list(tmp_path.glob("runs/scratch/train/*/metrics.jsonl"))
