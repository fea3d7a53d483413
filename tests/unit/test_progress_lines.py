"""What progress lines say: of a training the loss, the rate and the pace, of a suite the time left in all."""

import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from deme.cli.app import main
from deme.commands import suite_worker
from deme.commands.costs import TimeLeft, rate_of
from deme.runs import Suite
from deme.system import BadConfig, console, imports, progress
from deme.training.callbacks import ShowProgress
from tests.made_runs import made_run

SUITE = (
    "suite: s\nbaseline: a\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
    "plan: {seconds_per_million_forward_passes: 10}\n"
    "rows:\n"
    "  - {name: a, label: A, train: [experiment=digits/finetune, num_steps=10]}\n"
    "  - {name: b, label: B, train: [experiment=digits/finetune, num_steps=30], evaluate: []}\n"
)
PASSES = 128 * 3  # of a step: 128 images, forward and backward


@pytest.fixture
def suite(in_tmp):
    (in_tmp / "s.yaml").write_text(SUITE.replace("A, train", "A, evaluate: [], train"))
    return Suite.read(in_tmp / "s.yaml")


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)


def test_lines_of_a_training_have_loss_learning_rate_images_and_time_left(often, messages):
    optimizer = SimpleNamespace(param_groups=[{"lr": 5e-4}])
    trainer = SimpleNamespace(
        global_step=4, log_every_n_steps=2, max_steps=100, callback_metrics={"loss": 0.25, "other": 1.0}, optimizers=[optimizer]
    )  # fmt: skip
    with progress("run", 100, "steps") as bar:
        show = ShowProgress(bar, 0, num_images=32)
        show.on_train_batch_end(trainer, None)
        trainer.global_step = 6
        show.on_train_batch_end(trainer, None)
    line = messages[-1]
    for part in ("run: 6/100 steps", " left, ", "loss 0.2500", "lr 0.0005", "images/s "):
        assert part in line
    assert "other" not in line
    trainer.global_step, trainer.log_every_n_steps = 100, 70  # the last step
    trainer.callback_metrics = {"loss": 0.125}
    with progress("run", 100, "steps") as bar:
        ShowProgress(bar, 0, num_images=32).on_train_batch_end(trainer, None)
    assert "loss 0.1250" in messages[-1]


def test_the_first_line_comes_before_the_others(messages, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("run", 100, "steps") as bar:
        for _ in range(40):
            now[0] += 1
            bar.advance()
    counts = [int(line.split(": ")[1].split("/")[0]) for line in messages]
    first, between = console.SECONDS_TO_FIRST_LINE, console.SECONDS_BETWEEN_LINES
    assert counts == [first, first + between, first + 2 * between]


def test_the_time_left_is_that_of_finished_runs_and_of_the_suite_before_there_are_any(suite):
    trainings = [node for node in suite.nodes if node.stage == "train"]
    passes = {node: node.num_forward_passes for node in suite.nodes}
    assert [passes[node] for node in trainings] == [10 * PASSES, 30 * PASSES]
    total = sum(passes.values())
    assert TimeLeft(suite, 1).seconds() == pytest.approx(total * 10 / 1e6)
    assert TimeLeft(suite, 4).seconds() == pytest.approx(total * 10 / 1e6 / 4)
    made_run(["train"], config=trainings[0].run.config, seconds=7.0)
    again = Suite.read(suite.file)
    states = {node: node.state for node in again.nodes}
    rate = rate_of(again, states, {node: node.num_forward_passes for node in again.nodes})
    assert rate.is_measured
    assert rate.seconds == pytest.approx(7.0 / (10 * PASSES))
    left = total - 10 * PASSES
    assert TimeLeft(again, 2).seconds() == pytest.approx(left * rate.seconds / 2)


def test_each_run_of_a_suite_is_announced_with_its_number_and_the_time_left(suite, messages):
    def work(config):
        made_run(["train"], config=config, seconds=60.0)
        return

    seen = []
    with mock.patch.object(suite_worker, "stage_function", lambda stage: work if stage == "train" else fails):  # fmt: skip

        def fails(config):
            seen.append(config)
            raise BadConfig("no evaluation here")

        assert main(["reproduce", str(suite.file)]) == 2
    lines = [line for line in messages if line.startswith("run ")]
    assert lines[0].startswith("run 1 of 4: a train, seed 0")
    assert lines[1].startswith("run 2 of 4: b train, seed 0")
    assert all("left for all runs" in line for line in lines)
    failed = [line for line in messages if "no evaluation here" in line]
    assert all("runs/s/evaluate/" in line for line in failed)
    assert len(failed) == len(seen) == 2


def test_that_torch_is_loaded_is_said_once_before_it_is(messages, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    imports.announce_torch()
    imports.announce_torch()
    announcer = sys.meta_path[0]
    assert announcer.find_spec("json", None) is None
    assert messages == []
    assert announcer.find_spec("torch", None) is None
    assert messages == ["loading torch ..."]
    assert announcer not in sys.meta_path
