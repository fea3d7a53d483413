"""kill -9 at random moments, then the same command: the results of a run that nobody disturbed, bit for bit."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import safe_open

from tests.original_ddpm import CIFAR, network
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


TIMED = ("log.txt", "run.json", "status.json", "speed.jsonl")


def timeless(content: bytes) -> bytes:
    """Without how long each evaluation of a search took."""
    return re.sub(rb',\s*"seconds": [0-9.e+-]+', b"", content)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file that a command is for: not its logs, nor what says when and where it ran."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    ]
    return {
        str(file.relative_to(folder)): timeless(file.read_bytes())
        for file in files
        if file.name not in TIMED and file.suffix != ".lock"
    }


def check(file: Path) -> None:
    if file.suffix == ".json":
        json.loads(file.read_text())
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            assert len(opened.keys()) > 0
    elif file.suffix == ".png":
        assert file.read_bytes().endswith(b"IEND\xaeB`\x82")
    elif file.suffix == ".npz":
        numpy.load(file)["mu"]


def assert_nothing_half_written(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        with contextlib.suppress(FileNotFoundError):  # a helper may still be at work
            check(file)


SUITE = """
suite: small
baseline: before
metrics: [fd_digits, loss]
finetune_seeds: [0]
sample_seeds: [100]
common:
  train: [num_steps=4, batch_size=16, progress.checkpoint_every=2, progress.preview.num_inference_steps=2, progress.preview.num_images=4]
  evaluate: [num_images=40, batch_size=20, shard_size=20, sampler.num_inference_steps=2, metrics.replicates=5, metrics.loss.draws=1]
rows:
  - {name: before, label: before, evaluate: []}
  - {name: deme, label: merged, train: [method=deme, ranges.num_ranges=2], experts: [0, 1], merge: [inputs.experts=null], evaluate: []}
"""


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return [done(["train", f"expert={i}", *TINY_EXPERTS, "num_steps=3"], folder) for i in (0, 1)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A suite, its finished runs, and a checkpoint of the original layout."""
    folder = tmp_path_factory.mktemp("material")
    torch.save(network(**CIFAR).state_dict(), folder / "model.ckpt")
    (folder / "small.yaml").write_text(SUITE)
    code, text = run(["reproduce", "small.yaml"], folder)
    assert code == 0, text
    return folder


def folder_for(command: str, material: Path, folder: Path) -> Path:
    """Make the folder that a command is typed in."""
    folder.mkdir()
    if command in ("plan", "table", "reproduce", "convert", "verify", "compare"):
        for name in ("small.yaml", "model.ckpt"):
            shutil.copy(material / name, folder / name)
    if command in ("plan", "table", "verify", "compare"):
        shutil.copytree(material / "runs", folder / "runs")
    if command in ("verify", "compare"):
        for run_dir in folder.glob("runs/small/evaluate/*"):  # names that can be typed
            run_dir.rename(run_dir.with_name(run_dir.name.partition("-")[0]))
    if command == "plan":  # a part is to be done
        shutil.rmtree(folder / "runs/small/evaluate")
    return folder


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
        "coordinate": [
            "search",
            given,
            "search=coordinate",
            "search.points=4",
            *(word for word in TINY_SEARCH if not word.startswith("search.")),
        ],
        "merge": ["merge", given],
        "reproduce": ["reproduce", "small.yaml", "jobs=2"],
        "plan": ["plan", "small.yaml", "all=true"],
        "table": ["table", "small.yaml"],
        "verify": ["verify", "run=runs/small/evaluate/before", "num_images=10"],
        "compare": ["compare", "runs/small/evaluate/before", "runs/small/evaluate/deme"],
        "improve": [
            "improve",
            "model=asset:digits_base",
            "data=digits",
            "out=better",
            "num_ranges=2",
            "steps_per_expert=2",
            "search.step=1",
            "search.num_images=50",
            "num_images=50",
            "batch_size=50",
            "sample_seeds=[0]",
            "sampler.num_inference_steps=2",
            "metrics.replicates=5",
            "progress.preview.num_images=4",
            "progress.preview.num_inference_steps=2",
        ],
        "sample": ["sample", f"run={experts[0]}", "num_images=8", "sampler.num_inference_steps=2"],
        "export": ["export", f"run={experts[0]}", "out=exported"],
        "convert": ["convert", "model.ckpt", "out=converted"],
        "stats": ["stats", "out=statistics.npz", "paths.cache=cache"],
        "analyze": ["analyze", "out=weightings.png"],
        "figure": [
            "analyze",
            "figure=gradient_similarity",
            "figure.num_bins=8",
            "figure.num_images=512",
            "figure.num_groups=2",
            "out=similarity.png",
        ],
        "doctor": ["doctor", "data=digits", "out=data.png"],
    }


QUICK = ("train", "dropout", "bf16", "ant-uw", "ant-nash", "evaluate", "search")
ALSO = ("coordinate", "merge", "plan", "table", "figure")
SLOW = (
    "sample", "export", "convert", "stats", "analyze", "doctor", "ant-gradient", "evaluate-all",
    "verify", "compare", "improve", "reproduce",
)  # fmt: skip
PRINTED = ("plan", "doctor", "compare")  # of these what is printed counts


@pytest.mark.parametrize(
    ("command", "attempts", "kills"),
    [
        *((command, range(1), 3) for command in QUICK),
        *((command, range(1), 1) for command in ALSO),
        *(pytest.param(v, range(1, 4), 3, marks=pytest.mark.slow) for v in (*QUICK, *ALSO, *SLOW)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_anywhere_and_run_again_gives_the_same_bits(
    command, attempts, kills, experts, material, tmp_path
):
    words = commands(experts)[command]
    undisturbed = folder_for(command, material, tmp_path / "a")
    began = time.monotonic()
    code, printed = run(words, undisturbed)
    duration = time.monotonic() - began
    assert code == 0, printed
    expected = everything(undisturbed)
    assert expected
    for attempt in attempts:
        moments = random.Random(f"{command} {attempt}")
        folder = folder_for(command, material, tmp_path / f"b{attempt}")
        for _ in range(kills):
            program = start(words, folder)
            program.process.join(moments.uniform(0.15, 0.9) * duration)
            program.kill()
            assert_nothing_half_written(folder)
        code, text = run(words, folder)
        assert code == 0, text
        assert everything(folder) == expected
        assert text == printed or command not in PRINTED
        assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["sample", "stats", "doctor", "export", "convert", "analyze", "figure", "plan", "table"],
)
def test_four_at_once_leave_what_one_leaves(command, experts, material, tmp_path):
    """Their caches are empty, so all of them write passports, references and hashes, too."""
    words = commands(experts)[command]
    alone, folder = (folder_for(command, material, tmp_path / name) for name in "ab")
    caches = [tmp_path / f"cache-{name}" for name in "ab"]
    patches = [f"import os; os.environ['DEME_CACHE'] = {str(cache)!r}\n" for cache in caches]
    code, printed = run(words, alone, patches[0])
    assert code == 0, printed
    programs = [start(words, folder, patches[1]) for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4, [p.text for p in programs]
    assert everything(folder) == everything(alone)
    assert len([*caches[1].rglob("*")]) == len([*caches[0].rglob("*")])
    assert not [*folder.rglob("*.tmp"), *caches[1].rglob("*.tmp")]


def children(program):
    place = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
    with contextlib.suppress(OSError):
        return [int(number) for number in place.read_text().split()]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate-all", "reproduce"])
def test_a_helper_that_is_killed_alone_changes_no_result(command, experts, material, tmp_path):
    words = commands(experts)[command]
    undisturbed = folder_for(command, material, tmp_path / "a")
    assert run(words, undisturbed)[0] == 0
    moments = random.Random(f"helper {command}")
    for attempt in range(5):
        folder = folder_for(command, material, tmp_path / f"b{attempt}")
        program = start(words, folder)
        program.wait_for(lambda program=program: children(program))
        program.process.join(moments.uniform(0, 10))
        for helper in children(program):
            os.kill(helper, signal.SIGKILL)
        if program.wait():  # what the helper was at may be left: the same command does it
            assert "helper processes ended with exit codes" in program.text
            assert run(words, folder)[0] == 0
        assert everything(folder) == everything(undisturbed)


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
    assert (f"(from step {step // 3 * 3})" in text) == (step >= 3)
    (resumed,) = tmp_path.glob("runs/scratch/train/*")
    assert results(resumed) == expected


@pytest.mark.parametrize(
    ("signum", "code", "state"),
    [
        (signal.SIGTERM, 75, "preempted"),
        (signal.SIGHUP, 75, "preempted"),
        (signal.SIGINT, 130, "preempted"),
    ],
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


KILLED_BY_ITS_CHECKPOINT = """
import os, signal
from deme.training.callbacks import AtomicCheckpointIO
save = AtomicCheckpointIO.save_checkpoint
def killed(self, checkpoint, *args, **kwargs):
    save(self, checkpoint, *args, **kwargs)
    if checkpoint["global_step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)
AtomicCheckpointIO.save_checkpoint = killed
"""


def test_a_checkpoint_comes_after_the_snapshot_of_its_step(tmp_path):
    """Killed as soon as the checkpoint of step 6 is there, a run goes on after it."""
    words = ["train", *TINY_TRAIN, "ema=post_hoc", "ema.length=0.2", "snapshots.every=3"]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    assert sum("snapshots" in name for name in expected) == 4 * 3
    code, text = run(words, tmp_path, KILLED_BY_ITS_CHECKPOINT)
    assert code == -signal.SIGKILL, text
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert "(from step 6)" in text
    (resumed,) = tmp_path.glob("runs/scratch/train/*")
    assert results(resumed) == expected


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


@pytest.mark.parametrize("command", ["evaluate", "search"])
def test_control_c_elsewhere_is_130_and_loses_nothing_finished(command, experts, tmp_path):
    words = commands(experts)[command]
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


KILLED_BY_ITS_FIRST_ROW = """
import os, signal
from deme.training.callbacks import JsonlLogger
write = JsonlLogger.write
def killed(self, *args):
    write(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
JsonlLogger.write = killed
"""


def test_a_training_that_is_shorter_than_its_logging_records_its_last_step_once(tmp_path):
    words = ["train", *TINY_TRAIN, "num_steps=8", "progress.log_every=50"]
    (tmp_path / "a").mkdir()
    expected = results(done(words, tmp_path / "a"))
    code, text = run(words, tmp_path, KILLED_BY_ITS_FIRST_ROW)
    assert code < 0, text
    again = done(words, tmp_path)
    assert results(again) == expected
    rows = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [7]
    assert rows[0]["loss"] > 0
    assert "training loss" in (again / "log.txt").read_text()


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
