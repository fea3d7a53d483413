"""Which images judge a training, at which timesteps, when, and how many grids there are."""

import json

import numpy as np
import pytest
import torch

from deme.data import InMemoryImages, chosen_images
from deme.diffusion import TimestepRange
from deme.evaluation.validation import is_next, parts_of_range
from deme.report.page.curves import Curve, read_curves, training_curves
from deme.runs import TrainSettings, build, compose_stage, held_out_ends, sample_grids
from deme.runs.numbers import main_numbers
from deme.training.callbacks import JsonlLogger
from deme.training.due import Due


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_it_is_due_by_steps_or_by_minutes_whichever_comes_first():
    clock = Clock()
    due = Due(5, 2.0, clock)
    due.start()
    found = []
    for step in range(1, 21):
        clock.seconds += 50
        if due(step):
            found.append(step)
            due.start()
    assert found == [3, 5, 8, 10, 13, 15, 18, 20]  # 120 s are over after three steps
    assert [step for step in range(1, 11) if Due(4)(step)] == [4, 8]
    assert not any(Due(None, 1.0, clock)(step) for step in range(9))  # not begun
    assert not any(Due(None)(step) for step in range(9))


@pytest.mark.parametrize("ends", [(0, 1000), (250, 500), (3, 5), (7, 8)])
def test_the_parts_of_a_range_cover_it_once(ends):
    parts = parts_of_range(TimestepRange(*ends))
    assert [t for part in parts for t in range(part.low, part.high)] == [*range(*ends)]
    assert len(parts) == min(4, ends[1] - ends[0])


def test_the_images_are_the_same_ones_and_not_the_first():
    images = InMemoryImages(torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1))
    one, other = (
        chosen_images(images, 10, "validation").__getitems__([*range(10)]) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one.flatten(), torch.arange(10))
    assert (
        len(chosen_images(images, 41, "validation"))
        == len(chosen_images(images, 40, "validation"))
        == 40
    )


@pytest.mark.parametrize(("total", "every"), [(20_000, 1), (20_000, 170), (7, 1), (1000, 10)])
def test_there_are_at_most_101_grids(total, every):
    drawn = list[int]()
    for step in [*range(0, total, every), total]:
        if is_next(step, drawn, total):
            drawn.append(step)
    assert len(drawn) == min(101, len([*range(0, total, every), total]))
    assert (drawn[0], drawn[-1]) == (0, total)
    # those of an attempt that was killed are there when the steps are taken again
    assert [
        step for step in [*range(0, total, every), total] if is_next(step, drawn, total)
    ] == drawn


def test_runs_of_earlier_versions_are_read_and_are_not_judged():
    config = compose_stage("train", [])
    assert not build(TrainSettings, config).progress.validate.is_on
    assert build(TrainSettings, config).progress.checkpoint_minutes == 10
    del config["progress"]["validate"], config["progress"]["checkpoint_minutes"]
    progress = build(TrainSettings, config).progress
    assert not progress.validate.is_on
    assert progress.checkpoint_minutes is None


ROWS = [
    {"step": -1, "held_out_loss": 0.5, "held_out_loss/raw": 0.5},
    {"step": 1, "loss": 3.0},
    {"step": 2, "held_out_loss": 0.25, "held_out_loss/raw": None},
    {"step": 3, "loss": 2.0},
    *({"step": 4 + 2 * i, "held_out_loss": 0.125} for i in range(30)),
]


@pytest.fixture
def judged(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_the_losses_of_training_and_of_held_out_images_are_told_apart(judged):
    assert main_numbers(judged, "train")["training loss"]["value"] == 2.0
    assert held_out_ends(judged) == ((0, 0.5), (63, 0.125))
    loss, found = read_curves(judged)
    assert list(loss.values) == [3.0, 2.0]
    assert list(found[""].steps[:3]) == [0, 3, 5]
    assert np.isfinite(found["raw weights"].values).all()
    assert len(found["raw weights"].steps) == 1
    panels = {"training loss": {"": [loss]}, "held-out loss": {n: [c] for n, c in found.items()}}  # fmt: skip
    assert [axes.get_title("left") for axes in training_curves(panels).axes] == [*panels]


def test_runs_judged_at_other_steps_are_lines_of_their_own(judged):
    curve = read_curves(judged).held_out[""]
    other = type(curve)(curve.steps[:5], curve.values[:5])
    (axes,) = training_curves({"held-out loss": {"": [curve, other]}}).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [len(curve.steps), 5]


def test_a_curve_of_the_last_step_alone_is_a_dot():
    curve = Curve(np.array([11.0]), np.array([0.5]))
    (axes,) = training_curves({"training loss": {"": [curve]}}).axes
    (line,) = axes.lines
    assert line.get_marker() == "."


def test_a_run_without_them_says_nothing(tmp_path):
    assert held_out_ends(tmp_path) is None
    assert sample_grids(tmp_path) == {}
    assert read_curves(tmp_path) == (None, {})


def test_a_row_has_one_line_and_what_was_before_the_training_is_kept_by_a_resumed_run(tmp_path):
    rows = list[dict]()
    curve = JsonlLogger(tmp_path / "metrics.jsonl", 2, 9, 4, rows.append)
    curve.start_clock(0)
    curve.write(-1, {"held_out_loss": 1.0})
    curve.log_metrics({"loss": 4.0}, 0)  # of a step that is not recorded
    curve.write(1, {"loss": 3.0, "held_out_loss": float("nan")})
    curve.log_metrics({"loss": 3.0, "epoch": 0}, 1)  # Lightning's, afterwards
    curve.write(2, {"held_out_loss": 0.5})
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == [
        {"step": -1, "held_out_loss": 1.0},
        {"step": 1, "loss": 3.0, "held_out_loss": None},
        {"step": 2, "held_out_loss": 0.5},
    ]
    assert ["images_per_second" in row for row in rows] == [False, True, False]
    curve.log_metrics({"loss": 2.0}, 8)  # the last step
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 8
    curve.rewind(2)
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in kept] == [-1, 1]
    curve.rewind(0)  # nothing was saved: the run begins again
    assert (tmp_path / "metrics.jsonl").read_text() == ""
