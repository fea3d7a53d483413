"""Rows of a suite with the stage `average`: which runs they need, and from what."""

import pytest
import yaml

from deme.commands.plan import run as plan
from deme.runs import Suite, SuiteOptions
from deme.system import BadConfig
from tests.pipeline.program import TINY_EVALUATE, TINY_TRAIN, done

TRAIN = [*TINY_TRAIN, "snapshots.every=4"]
ROWS = [
    {"name": "before", "evaluate": []},
    {"name": "mean", "train": TRAIN, "average": ["average=mean"], "evaluate": []},
    {
        "name": "mixture",
        "train": TRAIN,
        "search": ["merge=linear", "search=gradient", "objective=loss"],
        "average": ["average=mixture"],
        "evaluate": [],
    },
    {
        "name": "routed",
        "train": ["method=deme", "ranges.num_ranges=2", *TRAIN],
        "experts": [0, 1],
        "average": [],
        "evaluate": [],
    },
    {"name": "merged", "experts_of": "routed", "search": [], "merge": [], "evaluate": []},
    {"name": "copies", "train": ["method=deme", "ranges.num_ranges=2", *TRAIN], "experts": [0, 1]},
    {"name": "soup", "experts_of": "copies", "average": [], "evaluate": []},
]
HEAD = {
    "suite": "averages",
    "baseline": "before",
    "metrics": ["loss"],
    "finetune_seeds": [0, 1],
    "sample_seeds": [100],
    "common": {"evaluate": ["metrics=loss"], "average": ["compute_dtype=float64"]},
}


def suite_of(folder, rows=ROWS, **more):
    file = folder / "suite.yaml"
    labelled = [{"label": row["name"], **row} for row in rows]
    file.write_text(yaml.safe_dump({**HEAD, "rows": labelled, **more}))
    return Suite.read(file, folder / "runs")


def inputs(suite, row, stage, seed=0):
    """The inputs of the runs of a row's stage: name -> what makes each."""
    found = [n for n in suite.nodes if (n.row, n.stage, n.seed) == (row, stage, seed)]
    return [{name: [f"{n.row} {n.stage}" + (f" {n.expert}" if n.expert is not None else "") for n in nodes]
             for name, nodes in node.inputs.items()} for node in found]  # fmt: skip


def test_what_a_row_averages_and_measures(tmp_path):
    suite = suite_of(tmp_path)
    assert inputs(suite, "mean", "average") == [{"run": ["mean train"]}]
    assert inputs(suite, "mean", "evaluate") == [{"weights": ["mean average"]}]
    assert inputs(suite, "mixture", "search") == [{"snapshots_of": ["mixture train"]}]
    assert inputs(suite, "mixture", "average") == [
        {"run": ["mixture train"], "search": ["mixture search"]}
    ]
    experts = ["routed average 0", "routed average 1"]
    assert inputs(suite, "routed", "average") == [
        {"run": ["routed train 0"]},
        {"run": ["routed train 1"]},
    ]
    assert inputs(suite, "routed", "evaluate") == [{"experts": experts}]
    assert inputs(suite, "merged", "search") == [{"experts": experts}]
    assert inputs(suite, "merged", "merge") == [{"experts": experts, "search": ["merged search"]}]
    assert inputs(suite, "soup", "average") == [{"run": ["copies train 0", "copies train 1"]}]
    assert inputs(suite, "soup", "evaluate") == [{"weights": ["soup average"]}]


def test_inputs_come_before_what_needs_them(tmp_path):
    nodes = suite_of(tmp_path).nodes
    for index, node in enumerate(nodes):
        assert set(node.ancestors) <= set(nodes[:index])
    assert len({node.title for node in nodes}) == len(nodes)


def test_an_average_costs_nothing_and_its_search_counts_snapshots(tmp_path):
    nodes = {(n.row, n.stage): n for n in suite_of(tmp_path).nodes if n.seed == 0}
    assert nodes["mean", "average"].num_forward_passes == 0
    assert nodes["mixture", "search"].num_forward_passes > 0
    assert nodes["mixture", "search"]._num_experts == 3
    settings = nodes["mean", "average"].settings
    assert settings.compute_dtype == "float64"  # of `common`


def test_a_pretraining_can_be_averaged_once(tmp_path):
    rows = [
        {"name": "pretrain", "train": ["method=pretrain", *TRAIN]},
        *ROWS[:1],
        {"name": "averaged", "experts_of": "pretrain", "average": [], "evaluate": []},
        {"name": "tuned", "train": TRAIN, "average": [], "evaluate": []},
    ]
    suite = suite_of(tmp_path, rows, pretrained_by="pretrain")
    assert inputs(suite, "averaged", "average", None) == [{"run": ["pretrain train"]}]
    assert {n.seed for n in suite.nodes if n.stage == "average"} == {None, 0, 1}
    averages = [node for node in suite.nodes if node.stage == "average"]
    assert not any("model" in word for node in averages for word in node.overrides)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"average": []}, "average needs models: type train: or experts_of:"),
        ({"experts_of": "routed", "average": [], "merge": []}, "an average of all models leaves one"),
        ({"experts_of": "copies", "search": [], "average": []}, "a mixture is of the snapshots of one model"),
    ],
)  # fmt: skip
def test_rows_that_make_no_sense_are_refused(row, message, tmp_path):
    with pytest.raises(BadConfig, match=message):
        suite_of(tmp_path, [*ROWS, {"name": "wrong", "evaluate": [], **row}])


def test_a_row_that_merges_its_experts_measures_their_merge(tmp_path):
    both = {"name": "both", "train": TINY_TRAIN, "experts": [0, 1], "merge": [], "evaluate": []}
    alone = {"name": "alone", "train": TINY_TRAIN, "experts": [0, 1], "evaluate": []}
    suite = suite_of(tmp_path, [*ROWS, both, alone])
    for row, inputs, stage in (("both", "weights", "merge"), ("alone", "experts", "train")):
        for node in suite.evaluations(row):
            assert {one.stage for one in node.inputs[inputs]} == {stage}
            assert ("source=experts" in node.overrides) == (row == "alone")


@pytest.mark.parametrize(
    "row",
    [
        {"train": TINY_TRAIN, "average": []},
        {"experts_of": "mean", "average": []},  # an average itself
        {"train": TINY_TRAIN, "search": ROWS[2]["search"], "average": ["average=mixture"]},
    ],
    ids=["no snapshots", "of an average", "mixture"],
)
def test_an_average_of_snapshots_that_nobody_keeps_is_refused_by_plan(row, tmp_path):
    suite = suite_of(tmp_path, [*ROWS, {"name": "wrong", "evaluate": [], **row}])
    with pytest.raises(BadConfig, match=r"which keeps none\ntype: snapshots\.every=<n>"):
        plan(suite, SuiteOptions())


@pytest.mark.slow
def test_a_table_of_averages_is_made(tmp_path):
    rows = ROWS
    searches = ["num_images=12", "batch_size=12", "metrics=loss", "search.max_evaluations=3"]
    common = {
        "evaluate": [*TINY_EVALUATE, "metrics=loss"],
        "search": ["search=gradient", "objective=loss", *searches],
    }
    suite_of(tmp_path, rows, finetune_seeds=[0], common=common)
    done(["reproduce", "suite.yaml"], tmp_path)
    suite = Suite.read(tmp_path / "suite.yaml", tmp_path / "runs")
    assert {node.state for node in suite.nodes} == {"done"}
    assert not suite.stale()
    table = (tmp_path / "results" / "averages.md").read_text()
    assert all(f"| {row['name']} |" in table for row in rows if "evaluate" in row)
