"""Names of run directories: what they say, what they follow from, and how runs of older names are found."""

import re

import pytest

from deme.runs import Run, compose_stage
from deme.runs.composed import flat
from deme.runs.labels import changed_settings
from deme.runs.names import MAX_LENGTH, older_name, readable_name
from deme.system import is_file_name
from tests.made_runs import made_run

FINETUNE = ["experiment=digits/finetune"]
DEME = ["experiment=digits/deme", "expert=1"]


def name(stage, *words, **values):
    return readable_name(flat(compose_stage(stage, list(words), ("inputs.experts",), **values)))


def planned(*words):
    return Run.planned(compose_stage("train", list(words)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", *FINETUNE], "finetune-s0"),
        (["train", *FINETUNE, "optimizer.lr=1e-4"], "finetune-lr1e-4-s0"),
        (["train", *FINETUNE, "optimizer.lr=0.0001", "seed=3"], "finetune-lr1e-4-s3"),
        (["train", *FINETUNE, "gradient_clip=null", "num_steps=7"], "finetune-steps7-no_gradient_clip-s0"),
        (["train", *FINETUNE, "weighting=min_snr", "weighting.gamma=3"], "finetune-min_snr-gamma3-s0"),
        (["train", *FINETUNE, "ema=none"], "finetune-ema_none-s0"),
        (["train", *FINETUNE, "ranges=uniform", "snapshots.every=9"], "finetune-snapshots_every9-s0"),
        (["train", *DEME, "method.consistency_weight=0"], "deme-consistency_weight0-e1-s0"),
        (["train", "experiment=digits/weighted", "weighting=p2"], "p2-s0"),
        (["train", "experiment=digits/pretrain"], "pretrain-s0"),
        (["merge", "merge=ties", "merge.density=0.3", "inputs.experts=[asset:digits_base]"], "merge-ties-density0.3-digits_base"),
        (["merge", "experiment=digits/merge"], "deme_uniform-s0"),
        (["merge", "experiment=digits/merge", "merge.weights=[0.1,0.2]", "cell.method=mine"], "mine-weights0.1+0.2-s0"),
        (["evaluate"], "evaluate-digits_base-n0"),
        (["evaluate", "source=real"], "evaluate-real-n0"),
        (["evaluate", "experiment=digits/evaluate"], "before-n100"),
        (["evaluate", "inputs.weights=runs/s/train/deme-lr1e-4-s0-0123456789"], "evaluate-deme-lr1e-4-s0-n0"),
        (["evaluate", "inputs.weights=a/x-s0-0123456789/weights/raw"], "evaluate-x-s0-raw-n0"),
        (["evaluate", "inputs.weights=a/x-s0-0123456789/weights/snapshots/00000400"], "evaluate-x-s0-step400-n0"),
        (["evaluate", "source=experts", "inputs.experts=[m-e0-s1-0123456789,m-e1-s1-0123456780]"], "evaluate-m-s1-experts-n0"),
        (["average", "inputs.run=x-s0-0123456789", "average=power", "average.ema_length=0.2"], "average-power-ema_length0.2-x-s0"),
        (["search", "inputs.experts=[x]", "search=cma_es", "objective=loss"], "search-cma_es-objective_loss-x"),
    ],
)  # fmt: skip
def test_a_name_says_what_differs_from_the_defaults(words, expected):
    assert name(*words) == expected
    assert is_file_name(expected)


def test_what_changes_no_result_is_in_no_name():
    words = ["paths.runs=x", "progress.log_every=3", "logger=wandb", "suite=t", "cell.data=mine"]
    assert name("train", *FINETUNE, *words) == name("train", *FINETUNE)


def test_a_default_that_is_spelled_out_is_told_only_where_a_sweep_varies_it():
    words = [*FINETUNE, "optimizer.lr=5e-4", "weighting=constant"]
    assert name("train", *words) == "finetune-s0"
    config = compose_stage("train", words)
    swept = flat({**config, "swept": ["optimizer.lr", "weighting"]})
    assert readable_name(swept) == "finetune-weighting_constant-lr5e-4-s0"


def test_names_differ_by_the_seeds_without_being_composed_again():
    found = {name("train", *FINETUNE, seed=seed) for seed in range(3)}
    assert found == {"finetune-s0", "finetune-s1", "finetune-s2"}


def test_long_names_keep_what_was_set_last():
    words = [f"{key}=7" for key in ("num_steps", "batch_size", "accumulate", "optimizer.eps",
                                    "optimizer.weight_decay", "passport.num_images", "compute.threads")]  # fmt: skip
    found = name("train", *FINETUNE, *words, "optimizer.lr=1e-7")
    assert len(found) <= MAX_LENGTH
    assert "-lr1e-7-" in found
    assert "-steps7" not in found
    assert found.endswith("-s0")


@pytest.mark.parametrize("value", ["a/b c", "../x", "%$ü", "x" * 300])
def test_whatever_is_set_gives_a_file_name(value):
    words = [f"inputs.weights='{value}'", f"+cell.settings='{value[:90]}'", "num_images=3"]
    found = name("evaluate", *words)
    assert is_file_name(found)
    assert len(found) <= MAX_LENGTH


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300, 10**400, [[1, [2]], {"a": 1}], "\0", "/" * 99, "", ".", "-", "\ud800", None, [], {}])  # fmt: skip
def test_a_name_is_a_file_name_before_values_are_checked(value):
    config = compose_stage("train", [*FINETUNE, "optimizer.lr=1", "num_steps=2", "method=deme"])
    values = flat({**config, "num_steps": value, "optimizer": {"lr": value, "_target_": value}})
    assert is_file_name(readable_name(values))
    assert all(is_file_name(text) for text in changed_settings({**values, "overrides": []}))


def test_the_labels_say_what_was_set_and_what_went_in():
    config = compose_stage("evaluate", ["inputs.weights=r/ft-s0-0123456789", "num_images=9"])
    assert (config["cell"]["of"], config["cell"]["settings"]) == ("ft-s0", "images9")
    assert not {"of", "settings"} & compose_stage("train", FINETUNE)["cell"].keys()
    assert compose_stage("train", [*FINETUNE, "+cell.settings=mine"])["cell"]["settings"] == "mine"


def test_a_run_is_found_by_its_id_under_an_older_name_and_under_any_other(in_tmp):
    words = [*FINETUNE, "optimizer.lr=1e-4"]
    run = planned(*words)
    assert re.fullmatch(r"finetune-lr1e-4-s0-[0-9a-f]{10}", run.path.name)
    older = made_run(["train", *words], name=f"{older_name(flat(run.config))}-{run.identity[:10]}")
    assert older.name == f"finetune-s0-{run.identity[:10]}"
    assert planned(*words).path == older
    assert planned(*words).done
    renamed = older.rename(older.with_name(f"my-best-{run.identity[:10]}"))
    assert planned(*words).path == renamed
    assert planned(*FINETUNE).path != renamed
    assert planned(*words, "seed=1").path.name != renamed.name


def test_a_stopped_run_goes_on_in_its_older_directory(in_tmp):
    words = [*FINETUNE, "optimizer.lr=1e-4"]
    run = planned(*words)
    older = made_run(["train", *words], "preempted", name=f"finetune-s0-{run.identity[:10]}")
    seen = []
    assert planned(*words).execute(lambda run: seen.append(run.path)) == older
    assert seen == [older]
    assert planned(*words).done
    assert [path.name for path in older.parent.iterdir()] == [older.name]


def test_runs_that_are_called_otherwise_have_directories_of_their_own(in_tmp):
    """Others find their inputs by these labels."""
    one = made_run(["train", *FINETUNE, "cell.method=one"])
    other = planned(*FINETUNE, "cell.method=other")
    assert other.path.name.rpartition("-")[2] == one.name.rpartition("-")[2]
    assert other.path != one


def test_of_two_runs_that_differ_in_what_was_set_the_user_names_one(in_tmp, capsys):
    from deme.cli.app import main

    for lr in ("1e-4", "2e-4"):
        made_run(["train", *FINETUNE, f"optimizer.lr={lr}", "suite=s"], texts={"weights/ema/x": lr})
    query = "inputs.weights={stage: train, cell: {method: finetune%s}}"
    assert main(["evaluate", "suite=s", query % ""]) == 2
    message = capsys.readouterr().err
    assert "finetune-lr1e-4-s0" in message
    assert "finetune-lr2e-4-s0" in message
    run = Run.planned(compose_stage("evaluate", ["suite=s", query % ", settings: lr2e-4"]))
    assert "finetune-lr2e-4-s0" in run.inputs["weights"][0].name
