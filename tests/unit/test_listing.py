"""`deme ls`, `deme show` and `deme clean`: what they say of runs, and what is deleted."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deme
from deme.cli.app import main
from deme.report.run_settings import Settings, differing, own_settings, short_keys
from deme.report.run_table import columns_of, fitting
from deme.runs import Run, compose_stage
from deme.runs.labels import option_of
from deme.runs.listing import STATES, list_runs, read_run
from deme.runs.removable_runs import why_removable
from deme.runs.run_files import RUN_FILES
from deme.system import files, locked
from tests.made_runs import curve, made_run, measured

FINETUNE = ["train", "experiment=digits/finetune", "suite=sweep"]
EVALUATE = ["evaluate", "experiment=digits/evaluate", "suite=sweep"]
LEFTOVER = f".x.{files.MACHINE}{'0' * 16}.tmp"


@pytest.fixture
def sweep(in_tmp):
    """Eight trainings in two settings, and an evaluation of each; smaller losses for larger rates."""
    for lr in (1e-5, 2e-5, 3e-5, 4e-5):
        for seed in (0, 1):
            texts = {"metrics.jsonl": curve(9.0, 1e-6 / lr + seed / 100), "weights/ema/x": f"{lr} {seed}"}  # fmt: skip
            path = made_run([*FINETUNE, f"optimizer.lr={lr}", f"seed={seed}"], texts=texts)
            texts = {"metrics.json": measured(fd_digits=20 - 1e5 * lr - seed, loss=0.1)}
            made_run([*EVALUATE, f"inputs.weights={path}"], texts=texts)
    return Path("runs", "sweep")


def listed(capsys, *words):
    assert main(["ls", *words, "json=true"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_says_which_run_is_best_and_how_it_differs(sweep, capsys):
    assert main(["ls", "sweep", "stage=train"]) == 0
    head, titles, *lines = capsys.readouterr().out.splitlines()
    assert "8 runs" in head
    assert titles.split()[:4] == ["run", "state", "lr", "seed"]
    assert [line.split()[2:4] for line in lines[:8]] == [
        [f"{lr}e-5", str(seed)] for lr in (1, 2, 3, 4) for seed in (0, 1)
    ]
    best = [line.split()[:5] for line in lines if line.split()[4].endswith("*")]
    assert best == [  # one of each seed, whose losses are of other images
        [read_run_name(sweep, "lr4e-5-s0"), "done", "4e-5", "0", "0.02500*"],
        [read_run_name(sweep, "lr4e-5-s1"), "done", "4e-5", "1", "0.03500*"],
    ]


def read_run_name(folder, part):
    (path,) = folder.glob(f"train/*{part}*")
    return path.name


def test_an_evaluation_has_the_settings_of_its_model_and_the_best_is_marked(sweep, capsys):
    assert main(["ls", "sweep", "stage=evaluate", "sort=fd_digits"]) == 0
    _, titles, first, *_ = capsys.readouterr().out.splitlines()
    assert "fd_digits (n = 1,000)" in titles
    assert first.startswith("evaluate-finetune-lr4e-5-s1-n100-")
    assert first.split()[2:5] == ["4e-5", "1", "15.00*"]


def test_filters_take_settings_labels_states_and_several_values(sweep, capsys):
    assert len(listed(capsys)) == 16
    assert len(listed(capsys, "lr=1e-5,0.00002", "stage=train")) == 4
    assert len(listed(capsys, "optimizer.lr=1e-5", "seed=1")) == 2
    assert len(listed(capsys, "method=finetune", "stage=train")) == 8
    assert len(listed(capsys, "name=evaluate-*", "of=finetune-lr1e-5-*")) == 2
    assert listed(capsys, "state=running,failed") == []
    (run,) = listed(capsys, "lr=3e-5", "seed=0", "stage=evaluate")
    assert run["numbers"]["fd_digits"] == {"value": 17.0, "n": 1000, "better": "lower", "interval": [16.0, 18.0], "reference": "held out", "implementation": "deme"}  # fmt: skip
    assert (run["settings"]["optimizer.lr"], run["settings"]["num_images"]) == (3e-5, 10000)


def test_the_csv_has_numbers_that_are_not_rounded(sweep, capsys):
    assert main(["ls", "csv=true", "sort=-training loss", "stage=train"]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["path", "name", "state", "optimizer.lr", "seed", "training loss", "age", "disk"]  # fmt: skip
    assert [line[3:5] for line in lines[1:3]] == [["1e-05", "1"], ["1e-05", "0"]]
    assert float(lines[1][5]) == 1e-6 / 1e-5 + 0.01


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["ls", "swep"], 3, "'sweep'"),
        (["ls", "sweep", "lrr=1"], 2, "'lr'"),
        (["ls", "sweep", "sort=los"], 2, "training loss"),
        (["ls", "sweep", "state=bad"], 2, "stopped"),
        (["ls", "sweep", "another"], 2, "deme ls"),
        (["ls", "json=true", "csv=true"], 2, "csv=true"),
        (["ls", "runs=nowhere"], 3, "runs="),
        (["ls", f"runs={__file__}"], 2, "a folder"),
        (["show", "nothing"], 3, "deme ls"),
        (["show"], 2, "deme show"),
        (["show", "finetune", "json=perhaps"], 2, "json"),
        (["clean", "yes=perhaps"], 2, "yes"),
        (["clean", "nowhere"], 3, "sweep"),
    ],
)
def test_what_is_wrong_is_one_message(words, code, part, sweep, capsys):
    assert main(words) == code
    assert part in capsys.readouterr().err


def test_a_suite_is_given_by_its_name_its_file_or_its_folder(sweep, capsys):
    Path("t.yaml").write_text(
        "suite: sweep\nbaseline: a\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
        "rows: [{name: a, label: A, evaluate: []}]\n"
    )
    found = [listed(capsys, place) for place in ("sweep", "t.yaml", "runs/sweep", "runs", str(sweep.resolve()))]  # fmt: skip
    assert {len(each) for each in found} == {16}
    assert len(listed(capsys, "runs/sweep/train")) == 8
    (run,) = listed(capsys, f"runs/sweep/train/{read_run_name(sweep, 'lr1e-5-s0')}")
    assert run["stage"] == "train"


def test_a_narrow_terminal_leaves_out_columns_and_keeps_ids(sweep):
    runs = [run for run in list_runs(sweep) if run.stage == "train"]
    settings = Settings(runs)
    columns = columns_of(runs, settings, differing(runs, settings))
    for width in (200, 80, 60, 46):
        shown = fitting(columns, width)
        assert sum(column.width + 2 for column in shown) - 2 <= width
        assert {column.key for column in shown} >= {"name", "state", "training loss"}
        for run, name in zip(runs, shown[0].texts, strict=True):
            assert name.endswith(run.name[-10:])
    kept = {column.key for column in fitting(columns, 60)}
    assert {column.key for column in columns} - kept >= {"age", "disk"}


def test_keys_of_options_are_compared_where_the_option_is_the_same(in_tmp):
    words = ["train", "suite=s", "experiment=digits/finetune"]
    for option in ("min_snr", "p2", "constant"):
        made_run([*words, f"weighting={option}"])
    made_run([*words, "weighting=min_snr", "weighting.gamma=3"])
    runs = list_runs(Path("runs"))
    assert differing(runs, Settings(runs)) == ["weighting", "weighting.gamma"]
    assert short_keys(["a.lr", "b.lr", "b.k", "k2"]) == {"a.lr": "a.lr", "b.lr": "b.lr", "b.k": "k", "k2": "k2"}  # fmt: skip


def test_an_option_is_told_by_its_class_then_by_its_values(in_tmp):
    def shown(*words):
        return own_settings(
            read_run(made_run(["train", "suite=s", "experiment=digits/finetune", *words]))
        )

    assert shown("weighting=p2")["weighting"] == "p2"
    assert shown("optimizer=adamw", "optimizer.lr=5e-5")["optimizer"] == "adamw"
    assert shown("optimizer=from_scratch", "optimizer.lr=2e-4")["optimizer"] == "from_scratch"
    assert shown("optimizer=adamw", "optimizer.lr=0.123")["optimizer"] == "AdamW"
    assert shown("model=digits_base")["model"] == "digits_base"
    values = {"merge._target_": "deme.merging.methods.weighted_sum.weighted_sum"}
    assert option_of("merge", {**values, "merge.weights": "ones"}) == "sum"
    assert option_of("merge", {**values, "merge.weights": "uniform"}) == "weighted_sum"  # the class


def test_states_say_what_became_of_runs(in_tmp, capsys):
    for number, state in enumerate(("done", "running", "preempted", "failed", "running")):
        texts = {"metrics.jsonl": curve(1.0, 2.0)}
        path = made_run([*FINETUNE, f"seed={number}"], state, texts=texts)
    Path("runs/sweep/train/finetune-s9-0123456789").mkdir()
    with locked(path / ".lock", None):
        states = {run["run"][-13:-10]: run["state"] for run in listed(capsys)}
    assert states == {"s0-": "done", "s1-": "stopped", "s2-": "stopped", "s3-": "failed", "s4-": "running", "s9-": "empty"}  # fmt: skip
    (path / "status.json").write_text("{")
    (path / ".lock").write_text("process 3 on another-machine")
    lost = made_run(
        [*FINETUNE, "seed=5"],
        texts={"metrics.json": measured(loss=1.0)},
        outputs={"metrics.json": 1},
    )
    listed_states = {run["run"]: run["state"] for run in listed(capsys)}
    assert listed_states[str(lost)] == listed_states[str(path)] == "damaged"
    rows = deme.list_runs()
    assert {str(row["path"]): row["state"] for row in rows} == listed_states
    assert {*listed_states.values()} <= {*STATES}
    assert {row["seed"] for row in deme.list_runs(state="stopped", method="finetune")} == {1, 2}
    assert main(["ls", "state=damaged"]) == 0
    assert path.name in capsys.readouterr().out
    assert main(["ls", "state=stopped"]) == 0
    assert "stopped, 20 of 4,000" in capsys.readouterr().out


def test_a_page_shows_lineage_settings_numbers_files_and_the_command(sweep, capsys):
    train = next(sweep.glob("train/*lr2e-5-s1*"))
    (evaluation,) = sweep.glob("evaluate/*lr2e-5-s1*")
    assert main(["show", str(evaluation)]) == 0
    page = capsys.readouterr().out
    for part in (f"inputs.weights: {train} (done)", "model.path: asset:digits_base", "fd_digits", "[16.00, 18.00]", "took 61 s",
                 "experiment=digits/evaluate", f"deme evaluate experiment=digits/evaluate suite=sweep inputs.weights={train}"):  # fmt: skip
        assert part in page
    assert main(["show", train.name[-10:-2], "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] == {
        "optimizer.lr": {"value": 2e-5, "default": 5e-4},
        "seed": {"value": 1, "default": 0},
    }
    assert found["command"] == "deme train experiment=digits/finetune suite=sweep optimizer.lr=2e-05 seed=1"  # fmt: skip
    assert found["files"]["weights/ema/"] == 7
    again = compose_stage("train", found["command"].split()[2:])
    assert Run.planned(again).path == train


def test_a_page_of_a_failed_run_ends_with_its_last_messages(in_tmp, capsys):
    log = "".join(f"2026-01-01 00:00:00 line {number}\n" for number in range(99))
    path = made_run(FINETUNE, "failed", texts={"log.txt": log}, error="no\nadvice")
    assert main(["show", path.name]) == 0
    page = capsys.readouterr().out
    assert page.rstrip().endswith("line 98")
    assert "line 88" not in page
    assert "error: no" in page


def test_the_runs_of_a_suite_are_made_again_by_commands_of_their_own(in_tmp, capsys):
    from deme.runs import Suite

    Path("s.yaml").write_text(
        "suite: s\nbaseline: a\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
        "rows: [{name: a, label: A, train: [experiment=digits/finetune, num_steps=3], evaluate: []}]\n"
    )
    (node, *_) = Suite.read(Path("s.yaml")).nodes
    path = made_run(["train"], config=node.run.config)
    assert "-steps3-" in path.name
    assert main(["show", str(path), "json=true"]) == 0
    command = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert command[:2] == ["deme", "train"]
    assert Run.planned(compose_stage("train", command[2:])).path == path
    (path / "weights" / "ema").mkdir(parents=True)
    (path / "weights" / "ema" / "x").write_text("x")
    made_run(["train"], config=node.run.config)
    evaluation = Suite.read(Path("s.yaml")).nodes[-1].run
    assert evaluation.path.name.startswith("a-s0-n1-")
    path = made_run(["evaluate"], config=evaluation.config)
    assert main(["show", str(path), "json=true"]) == 0
    command = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert Run.planned(compose_stage("evaluate", command[2:])).path == path


def snapshot(folder):
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_only_runs_that_never_did_work_are_cleaned(in_tmp, capsys):
    kept = [
        made_run([*FINETUNE, "seed=0"], "done", texts={"metrics.jsonl": curve(1.0)}),
        made_run([*FINETUNE, "seed=1"], "failed", texts={"checkpoints/last.ckpt": "x"}),
        made_run([*FINETUNE, "seed=2"], "preempted", texts={"weights/.ema.tmp": "x", "notes": "mine"}),
        made_run([*FINETUNE, "seed=3"], "failed", texts={".lock": "process 3 on another-machine"}),
        made_run(EVALUATE, "failed", texts={"samples/images.bin": "x"}),
    ]  # fmt: skip
    removable = [
        made_run([*FINETUNE, "seed=5"], "failed", texts={"metrics.jsonl": curve(1.0), "log.txt": "x", LEFTOVER: "x"}, error="no"),
        made_run([*FINETUNE, "seed=6"], "running"),
        Path("runs/sweep/train/finetune-s7-0123456789"),
    ]  # fmt: skip
    removable[2].mkdir()
    (Path("runs") / "sweep" / LEFTOVER).write_text("x")
    for folder in ("runs/sweep/train/notes", "runs/sweep/mine", "other/train/x-0123456789"):
        Path(folder).mkdir(parents=True)
    Path("other/train/x-0123456789/data.txt").write_text("x")
    elsewhere = made_run([*FINETUNE, "seed=8"], "failed")
    shutil.move(elsewhere, "moved")
    Path(elsewhere).symlink_to(Path("moved").resolve())
    before = snapshot(in_tmp)
    assert main(["clean"]) == 0
    said = capsys.readouterr().out
    assert snapshot(in_tmp) == before
    assert "yes=true" in said
    assert main(["clean", "other", "yes=true"]) == 0
    running = made_run([*FINETUNE, "seed=9"], "running")
    with locked(running / ".lock", None):
        assert main(["clean", "yes=true"]) == 0
        assert running.exists()
    after = snapshot(in_tmp)
    assert not [path for path in removable if path.exists()]
    assert not (Path("runs") / "sweep" / LEFTOVER).exists()
    for path in removable:
        assert path.name in said
    for path in kept:
        assert path.name not in said
        assert {p: t for p, t in after.items() if path.name in p} == {p: t for p, t in before.items() if path.name in p}  # fmt: skip
    assert Path("moved/status.json").exists()
    assert Path("other/train/x-0123456789/data.txt").exists()
    assert Path("runs/sweep/train/notes").is_dir()


def test_a_run_of_somebody_elses_program_is_not_cleaned(in_tmp):
    path = made_run(FINETUNE, "failed")
    assert why_removable(path)
    (path / "config.yaml").write_text("stage: train\ncell: {}\n")
    assert why_removable(path) is None
    os.rename(path, path.parent.parent / path.name)  # noqa: PTH104
    assert why_removable(path.parent.parent / path.name) is None


@pytest.mark.parametrize("command", ["ls", "show", "clean"])
def test_looking_at_runs_imports_neither_numpy_nor_torch(command, in_tmp):
    place = made_run(FINETUNE, texts={"metrics.jsonl": curve(1.0)})
    words = [command, str(place)]
    code = (
        "import sys; from deme.cli.app import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'numpy', 'torch'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True)


@pytest.mark.parametrize("name", sorted({*RUN_FILES} - {"status.json"}))
def test_a_stopped_run_goes_if_it_has_nothing_but_files_that_may(name, in_tmp):
    path = made_run(FINETUNE, "failed")
    assert why_removable(path)
    (path / name).touch()
    assert (why_removable(path) is not None) == RUN_FILES[name].may_clean


def test_listing_writes_nothing_and_keeps_nothing_stale(in_tmp):
    path = made_run([*FINETUNE, "num_steps=5"])
    before = snapshot(Path("runs"))
    assert [run.settings["num_steps"] for run in list_runs(Path("runs"))] == [5]
    assert snapshot(Path("runs")) == before
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("num_steps: 5", "num_steps: 77"))
    assert [run.settings["num_steps"] for run in list_runs(Path("runs"))] == [77]
    assert read_run(path).settings["num_steps"] == 77
