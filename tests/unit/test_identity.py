"""A run's id: what counts, what does not, and what becomes of runs of the older format."""

import copy
import json
import sys
import types

import pytest

from deme.cli.app import main
from deme.diffusion.weighting import min_snr
from deme.runs import Run, compose_stage, instantiate, trusted
from deme.runs.identity import changes_no_result, identity_hash, neutral_keys
from deme.runs.settings import run_settings
from deme.runs.settings.commands import RUNS
from deme.system import BadConfig, files

OVERRIDES = {
    "average": ["inputs.run=[asset:digits_base,asset:captioned_digits]"],
    "merge": ["inputs.experts=[asset:digits_base]"],
    "search": ["inputs.experts=[asset:digits_base]"],
    "improve": ["data=digits", "model=diffusers", "model.path=asset:digits_base", "out=better"],
}


def config_of(stage, *overrides):
    return compose_stage(stage, [*OVERRIDES.get(stage, []), *overrides])


def run_id(*overrides, **changes):
    return Run.planned({**config_of("train", *overrides), **changes}).path.name


def moved(node, package):
    """Let the class of every option that is one of deme's own lie in another module."""
    if isinstance(node, list):
        return [moved(item, package) for item in node]
    if isinstance(node, dict):
        return {key: moved(value, package) for key, value in node.items()}
    own = isinstance(node, str) and node.startswith("deme.")
    return f"{package}.{node.rpartition('.')[2]}" if own else node


@pytest.mark.parametrize("stage", RUNS)
def test_classes_may_move_within_the_package(stage):
    config = config_of(stage)
    elsewhere = moved(config, "deme.another.place")
    assert elsewhere != config
    assert identity_hash(elsewhere, stage, {}) == identity_hash(config, stage, {})
    outside = moved(config, "another.place")
    assert identity_hash(outside, stage, {}) != identity_hash(config, stage, {})


def test_a_module_that_moves_keeps_the_ids_of_its_runs(monkeypatch, in_tmp):
    module = types.ModuleType("deme.moved")
    module.__dict__.update(vars(min_snr))
    monkeypatch.setitem(sys.modules, "deme.moved", module)
    option = config_of("train", "weighting=min_snr")["weighting"]
    there = moved(option, "deme.moved")
    assert there["_target_"].startswith("deme.moved.")
    named = frozenset({option["_target_"], there["_target_"]})  # by conf/, before and after
    monkeypatch.setattr(trusted, "option_targets", lambda: named)
    assert type(instantiate(there)) is type(instantiate(option))
    assert run_id(weighting=there) == run_id("weighting=min_snr")


def test_a_class_outside_of_the_package_counts_by_its_import_path(in_tmp):
    option = config_of("train", "weighting=min_snr")["weighting"]
    ids = {
        run_id(weighting=moved(option, package))
        for package in ("mine", "mine.weighting", "yours", "deme_extra", "deme.anywhere")
    }
    assert len(ids) == 5


def test_other_options_and_other_values_give_other_ids(in_tmp):
    overrides = [
        [],
        ["weighting=min_snr"],
        ["weighting=min_snr", "weighting.gamma=4"],
        ["weighting=p2"],
        ["timesteps=stratified"],
        ["seed=1"],
        ["num_steps=7"],
        ["data=captioned_digits"],
    ]
    assert len({run_id(*each) for each in overrides}) == len(overrides)


@pytest.mark.parametrize("stage", RUNS)
def test_exactly_the_keys_that_are_declared_to_change_no_result_take_no_part(stage):
    config = config_of(stage)
    before = identity_hash(config, stage, {})
    neutral = neutral_keys(stage)
    assert {"suite", "cell", "inputs", "paths", "progress"} <= neutral.keys() <= config.keys()
    for key in config:
        changed = identity_hash({**config, key: {"another": "value"}}, stage, {})
        assert (changed == before) == changes_no_result(stage, key), key
    assert not changes_no_result(stage, "another_key")
    for group, keys in neutral.items():
        assert changes_no_result(stage, f"{group}.another_key") == (keys == ())
        for key in keys:
            assert changes_no_result(stage, f"{group}.{key}")
            inside = {**(config[group] or {}), key: "another value"}
            assert (
                identity_hash({**config, group: inside}, stage, {}) == before or not config[group]
            )
            with_none = {name: value for name, value in inside.items() if name != key}
            without = identity_hash({**config, group: with_none}, stage, {})
            assert identity_hash({**config, group: inside}, stage, {}) == without, (group, key)


YOUNGER = {  # keys that runs of earlier versions did not have, and a value that changes results
    "train": {"export": ["ema"], "snapshots": {"every": 5}, "run_weights": None, "copy": 0},
    "evaluate": {"run_weights": None, "held_out_part": "test"},
    "merge": {"run_weights": None},
    "search": {"run_weights": None},
}


@pytest.mark.parametrize("stage", YOUNGER)
def test_keys_that_are_younger_than_runs_keep_their_ids_at_the_default(stage):
    config = config_of(stage)
    older = {key: value for key, value in config.items() if key not in YOUNGER[stage]}
    assert len(older) + len(YOUNGER[stage]) == len(config)
    assert identity_hash(older, stage, {}) == identity_hash(config, stage, {})
    assert run_settings(older) == run_settings(config)
    for key, value in YOUNGER[stage].items():
        if value is not None:  # run_weights: what the inputs hold counts
            changed = identity_hash({**config, key: value}, stage, {})
            assert changed != identity_hash(config, stage, {})


def test_the_order_of_exported_weights_does_not_count():
    ids = {identity_hash(config_of("train", f"export=[{each}]"), "train", {}) for each in ("raw,ema", "ema,raw")}  # fmt: skip
    assert ids == {identity_hash(config_of("train"), "train", {})}


@pytest.mark.parametrize(
    ("stage", "path", "default", "other"),
    [
        ("train", ("copy",), None, 0),
        ("train", ("method", "teacher"), "base", "ema"),
        ("merge", ("merge", "sum"), None, 2),
        ("search", ("merge", "sum"), None, 2),
    ],
)
def test_younger_keys_count_at_other_values_than_their_default_alone(stage, path, default, other):
    """A run that was made before has the id that it would be given today."""
    config = config_of(stage, *(["method=deme"] if stage == "train" else []))
    *groups, key = path

    def changed(*value):
        copied = copy.deepcopy(config)
        group = copied
        for name in groups:
            group = group[name]
        assert group.pop(key) == default
        group.update(dict.fromkeys([key], *value) if value else {})
        return identity_hash(copied, stage, {})

    assert changed() == changed(default) == identity_hash(config, stage, {})
    assert changed(other) != changed()


def test_the_content_of_inputs_counts(in_tmp):
    config = config_of("merge")
    one, other = ({"experts": [digest * 64]} for digest in "ab")
    assert identity_hash(config, "merge", one) != identity_hash(config, "merge", other)
    here = {**config, "inputs": {"experts": ["here"]}}
    assert identity_hash(here, "merge", one) == identity_hash(config, "merge", one)


def test_the_identity_does_not_change_what_it_is_given():
    config = config_of("train")
    before = copy.deepcopy(config)
    identity_hash(config, "train", {})
    assert config == before


COMMAND = ["train", "experiment=digits/finetune", "cell.data=two words"]


@pytest.fixture
def older(in_tmp):
    """The directory of a finished run as the version before wrote it."""
    config = config_of("train", "experiment=digits/finetune", "suite=s")
    path = Run.planned(config).execute(lambda run: None)
    file = path / "config.yaml"
    _, _, body = file.read_text().partition("\n")
    file.write_text(f"# deme run {'0' * 64}, frozen as {files.sha256_text(body)}\n{body}")
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "command": COMMAND}))
    return path


AGAIN = "type, to make it again: deme train experiment=digits/finetune 'cell.data=two words'"


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "inputs.weights="],
        ["verify", "run="],
        ["sample", "out=grid.png", "run="],
        ["export", "out=exported", "run="],
    ],
)
def test_a_run_of_the_older_format_is_refused_as_an_input(words, older, capsys):
    assert main([*words[:-1], f"{words[-1]}{older}"]) == BadConfig.exit_code == 2
    message = capsys.readouterr().err
    assert "older version of deme" in message
    assert str(older) in message
    assert AGAIN in message


def test_a_run_of_the_older_format_is_not_found_by_its_cell(older, capsys):
    words = ["inputs.weights={stage: train, cell: {method: finetune}}", "suite=s"]
    assert main(["evaluate", *words]) == 3
    assert "no finished train run with method=finetune" in capsys.readouterr().err


def test_a_run_of_the_older_format_in_the_place_of_another_is_refused(older):
    run = Run.planned(config_of("train", "experiment=digits/finetune", "suite=s"))
    assert run.path == older
    with pytest.raises(BadConfig, match="older version of deme") as refused:
        run.execute(lambda run: pytest.fail("it must not be overwritten"))
    assert AGAIN in str(refused.value)


def test_a_plan_never_counts_a_run_of_the_older_format_as_done(older, in_tmp, capsys):
    older.rename(older.with_name("finetune-s0-0123456789"))
    (in_tmp / "s.yaml").write_text(
        "suite: s\nbaseline: a\nmetrics: [loss]\nfinetune_seeds: [0]\nsample_seeds: [1]\n"
        "rows: [{name: a, label: A, train: [experiment=digits/finetune], evaluate: []}]\n"
    )
    assert main(["plan", "s.yaml"]) == 0
    assert "0 of 2 runs done" in capsys.readouterr().out
