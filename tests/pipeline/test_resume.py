"""kill -9 at random moments, then the same command: the results of a run that nobody disturbed, bit for bit."""

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.pipeline.program import (
    TINY_EVALUATE,
    TINY_EXPERTS,
    TINY_SEARCH,
    TINY_TRAIN,
    done,
    run,
    start,
)

RESULTS = ("metrics.json", "replicates.json", "metrics.jsonl", "evaluations.jsonl", "best.json")
# New weights at batches 0, 5 and 10; checkpoints after 3, 6 and 9 steps: the weights of between are in the checkpoint.
ANT_NASH = [
    "method=ant",
    "balancing=nash_mtl",
    "balancing.refresh_every=5",
    "ranges=log_snr",
    *TINY_TRAIN,
]
DROPOUT = ["model=digits_unet", "+model.unet.dropout=0.1", "accumulate=2", "learning_rate=cosine"]
SLOW_STEP = """
import time
from deme.training.module import DiffusionModule
step = DiffusionModule.training_step
DiffusionModule.training_step = lambda *args: (time.sleep(0.05), step(*args))[1]
"""


def results(run_dir: Path) -> dict[str, bytes]:
    files = [run_dir / name for name in RESULTS] + sorted(run_dir.glob("weights/**/*.safetensors"))
    files += sorted(run_dir.glob("moments/*")) + sorted(run_dir.glob("samples/[!.]*"))
    return {
        str(file.relative_to(run_dir)): timeless(file.read_bytes())
        for file in files
        if file.exists()
    }


def timeless(content: bytes) -> bytes:
    """Without how long each evaluation of a search took."""
    return re.sub(rb', "seconds": [0-9.e+-]+', b"", content)


def assert_nothing_half_written(folder: Path) -> None:
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert len(opened.keys()) > 0
    for file in folder.rglob("*.png"):
        assert file.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return [done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=3"], folder) for i in (0, 1)]


def commands(experts):
    given = f"inputs.experts=[{experts[0]},{experts[1]}]"
    return {
        "train": ["train", "expert=1", "projection=blocks", "accumulate=2", *TINY_EXPERTS],
        "dropout": ["train", "expert=1", *DROPOUT, *TINY_EXPERTS],
        "bf16": [
            "train",
            "expert=1",
            "compute.precision=bf16-mixed",
            "compute.channels_last=true",
            "compute.gradient_checkpointing=true",
            "optimizer.fused=true",
            *TINY_EXPERTS,
        ],
        "ant-uw": [
            "train",
            "method=ant",
            "balancing=uncertainty",
            "ranges.num_ranges=5",
            *TINY_TRAIN,
        ],
        "ant-nash": ["train", *ANT_NASH, "accumulate=2", "balancing.refresh_every=7"],
        "ant-gradient": [
            "train",
            *ANT_NASH,
            "ranges=gradient",
            "ranges.num_bins=4",
            "ranges.num_images=2048",
        ],
        "evaluate": ["evaluate", "source=experts", given, *TINY_EVALUATE],
        "evaluate-all": [
            "evaluate",
            *TINY_EVALUATE,
            "sampler=ddpm",
            "sampler.num_inference_steps=10",
            "metrics.kid=true",
            "metrics.nearest_k=3",
            "save_images=zip",
            "progress.processes=2",
        ],
        "search": ["search", given, *TINY_SEARCH],
    }


QUICK = ("train", "dropout", "bf16", "ant-uw", "ant-nash", "evaluate", "search")


@pytest.mark.parametrize(
    ("verb", "attempts"),
    [
        *((verb, range(1)) for verb in QUICK),
        *(pytest.param(verb, range(1, 4), marks=pytest.mark.slow) for verb in QUICK),
        pytest.param("ant-gradient", range(3), marks=pytest.mark.slow),
        pytest.param("evaluate-all", range(3), marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_and_run_again_gives_the_same_bits(verb, attempts, experts, tmp_path):
    words = commands(experts)[verb]
    (tmp_path / "a").mkdir()
    began = time.monotonic()
    undisturbed = done(words, tmp_path / "a")
    duration = time.monotonic() - began
    expected = results(undisturbed)
    assert expected
    for attempt in attempts:
        moments = random.Random(f"{verb} {attempt}")
        folder = tmp_path / f"b{attempt}"
        folder.mkdir()
        for _ in range(3):  # the same command is killed up to three times
            program = start(words, folder)
            program.process.join(moments.uniform(0.15, 0.9) * duration)
            program.kill()
            assert_nothing_half_written(folder / "runs")
        assert results(done(words, folder)) == expected


@pytest.mark.parametrize(
    ("step", "more"),
    [
        pytest.param(1, [], marks=pytest.mark.slow),
        (4, []),
        (11, []),
        (4, ["method=ant", "balancing=uncertainty"]),
        (4, ANT_NASH),
        pytest.param(7, ANT_NASH, marks=pytest.mark.slow),
        (4, ["projection=foldable"]),
        (4, DROPOUT),
        pytest.param(7, DROPOUT, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_a_train_run_killed_at_a_step_resumes_from_its_checkpoint(step, more, tmp_path):
    words = ["train", *TINY_TRAIN, *more]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    program = start(words, tmp_path, SLOW_STEP)
    program.wait_for(
        lambda: any(
            len(p.read_text().splitlines()) > step
            for p in tmp_path.glob("runs/*/*/*/metrics.jsonl")
        )
    )
    program.kill()
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert f"(from step {step // 3 * 3})" in text
    (resumed,) = tmp_path.glob("runs/scratch/train/*")
    assert results(resumed) == expected


@pytest.mark.parametrize(
    ("signum", "code", "state"),
    [(signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "preempted")],
)
def test_a_stop_signal_saves_the_step_and_the_same_command_goes_on(signum, code, state, tmp_path):
    words = ["train", *TINY_TRAIN, "progress.checkpoint_every=1000"]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    program = start(words, tmp_path, SLOW_STEP)
    program.wait_for(
        lambda: any(
            p.read_text().count("\n") > 3 for p in tmp_path.glob("runs/*/*/*/metrics.jsonl")
        )
    )
    program.signal(signum)
    assert program.wait() == code
    assert "the same command" in program.text
    assert "Traceback" not in program.text
    (stopped,) = tmp_path.glob("runs/scratch/train/*")
    assert json.loads((stopped / "status.json").read_text())["state"] == state
    assert (stopped / "checkpoints" / "last.ckpt").exists()
    done(words, tmp_path)
    assert results(stopped) == expected


STOP_IN_THE_LAST_STEP = """
import os, signal
from deme.training.module import DiffusionModule
step = DiffusionModule.training_step
def last(self, *args):
    if self.micro_step == 11:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args)
DiffusionModule.training_step = last
"""


def test_a_stop_signal_in_the_last_step_loses_no_training(tmp_path):
    words = ["train", *TINY_TRAIN, "progress.checkpoint_every=1000"]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    code, text = run(words, tmp_path, STOP_IN_THE_LAST_STEP)
    assert code == 75, text
    (finished,) = tmp_path.glob("runs/scratch/train/*")
    assert json.loads((finished / "status.json").read_text())["state"] == "done"
    assert results(finished) == expected


STOP_AT_THE_VERY_END = """
import os, signal
from deme.system import files
digest = files.sha256
def last(path):
    if path.parent.name == "weights" and "train" in path.parts:
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(path)
files.sha256 = last
"""


def test_killed_after_the_weights_are_written_it_goes_on_from_its_checkpoint(tmp_path):
    words = ["train", *TINY_TRAIN]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    code, text = run(words, tmp_path, STOP_AT_THE_VERY_END)
    assert code == -signal.SIGKILL, text
    (killed,) = tmp_path.glob("runs/scratch/train/*")
    assert (killed / "weights" / "ema").is_dir()
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert "(from step 9)" in text
    assert results(killed) == expected
    assert not (killed / "checkpoints" / "last.ckpt").exists()


def test_the_seconds_of_a_run_are_those_of_all_its_sittings(in_tmp, monkeypatch):
    from deme.runs import compose_stage
    from deme.runs import run as module

    run, clock = module.Run.planned(compose_stage("train", [])), iter([100.0, 130.0, 500.0, 505.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))

    def interrupted(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(interrupted)
    assert run.status["seconds"] == 30
    run.execute(lambda run: None)
    assert (run.status["state"], run.status["seconds"]) == ("done", 35)


@pytest.mark.parametrize("verb", ["evaluate", "search"])
def test_control_c_elsewhere_is_130_and_loses_nothing_finished(verb, experts, tmp_path):
    words = commands(experts)[verb]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    program = start(words, tmp_path)
    program.wait_for(
        lambda: (
            list(tmp_path.glob("runs/*/*/*/samples/features*"))
            or list(tmp_path.glob("runs/*/*/*/evaluations.jsonl"))
        )
    )
    program.signal(signal.SIGINT)
    assert program.wait() == 130, program.text
    assert "interrupted" in program.text
    assert "Traceback" not in program.text
    assert results(done(words, tmp_path)) == expected


def test_two_identical_commands_at_once_do_the_work_once(tmp_path):
    words = ["train", *TINY_TRAIN]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    programs = [start(words, tmp_path, SLOW_STEP) for _ in range(2)]
    assert [p.wait() for p in programs] == [0, 0], [p.text for p in programs]
    texts = sorted((p.text for p in programs), key=lambda text: "is working on" in text)
    assert "trained" in texts[0]
    assert "is working on" in texts[1]
    assert "trained" not in texts[1]
    (only,) = tmp_path.glob("runs/scratch/train/*")
    assert results(only) == expected


def test_a_finished_run_is_skipped_and_a_spelled_out_default_is_the_same_run(tmp_path):
    first = done(["train", *TINY_TRAIN], tmp_path)
    before = results(first)
    code, text = run(
        ["train", *TINY_TRAIN, "optimizer.lr=0.00005", "progress.log_every=5", "suite=scratch"],
        tmp_path,
    )
    assert code == 0
    assert "done already" in text
    assert results(first) == before
    other = done(["train", *TINY_TRAIN, "optimizer.lr=0.00006"], tmp_path)
    assert other != first
