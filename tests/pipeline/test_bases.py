"""A suite of several bases, from pretraining to its table."""

import pytest
import yaml

from deme.commands.table import PICTURES
from deme.runs import Suite
from deme.system import files, read_json
from tests.pipeline.program import TINY_EVALUATE, TINY_TRAIN, run

PRETRAIN = ["method=pretrain", "model=digits_unet", "snapshots.every=6", *TINY_TRAIN]
FINETUNE = ["passport.num_images=16", *TINY_TRAIN, "num_steps=3"]
SUITE = {
    "suite": "bases",
    "baseline": "before",
    "metrics": ["fd_digits", "loss"],
    "pretrain_seeds": [0, 1],
    "finetune_seeds": [0],
    "sample_seeds": [100],
    "bases": {
        "raw": {"row": "pretrain", "weights": "raw"},
        "averaged": {"row": "pretrain", "weights": "ema"},
        "mean": {"row": "snapshots"},
        "theirs": {"model": ["model=digits_base"]},
    },
    "comparisons": [["finetune", "before"], ["merged@raw", "before@averaged"]],
    "common": {"evaluate": [*TINY_EVALUATE, "num_images=100"]},
    "rows": [
        {"name": "pretrain", "label": "pretraining", "train": PRETRAIN},
        {"name": "snapshots", "label": "snapshots", "experts_of": "pretrain", "average": ["average=mean"]},
        {"name": "before", "label": "before", "evaluate": []},
        {"name": "finetune", "label": "finetune", "train": FINETUNE, "evaluate": []},
        {"name": "routed", "label": "routed", "bases": ["raw"], "train": ["method=deme", "ranges.num_ranges=2", *FINETUNE],
         "experts": [0, 1]},
        {"name": "merged", "label": "merged", "bases": ["raw"], "experts_of": "routed", "merge": [], "evaluate": []},
        {"name": "again", "label": "again", "bases": ["raw"], "starts_from": "merged", "train": FINETUNE, "evaluate": []},
        {"name": "control", "label": "its snapshots", "bases": ["raw"], "average": ["average.steps=[6]"], "evaluate": []},
    ],
}  # fmt: skip


@pytest.mark.slow
def test_every_row_is_made_from_every_base(in_tmp):
    (in_tmp / "s.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    code, text = run(["reproduce", "s.yaml"], in_tmp)
    assert code == 0, text
    suite = Suite.read(in_tmp / "s.yaml")
    assert {node.state for node in suite.nodes} == {"done"}
    assert not suite.stale()
    started = {
        (node.base_name, node.pretrain_seed): files.sha256(node.base_weights)
        for node in suite.nodes
        if node.row == "finetune" and node.base is not None
    }
    assert len({*started.values()}) == len(started) == 3 * 2  # all are different models
    for node in (node for node in suite.nodes if node.row == "finetune" and node.stage == "train"):
        base = read_json(node.path / "weights/ema/deme.json")["base"]
        assert base == started.get((node.base_name, node.pretrain_seed), base)
    again = next(node for node in suite.nodes if node.row == "again")
    assert again.base.stage == "merge"
    assert read_json(again.path / "weights/ema/deme.json")["base"] == files.sha256(again.base_weights)  # fmt: skip
    (average,) = {node.path for node in suite.nodes if node.row == "control" and node.stage == "average"
                  and node.pretrain_seed == 1}  # fmt: skip
    assert [
        name.rpartition("/")[2] for name in read_json(average / "run.json")["inputs"]["run"]
    ] == [suite.nodes[1].path.name]
    page = (in_tmp / "results" / "bases.md").read_text()
    assert "--" not in [cell.strip() for line in page.splitlines() for cell in line.split("|")]
    assert [line for line in page.splitlines() if line.startswith("## ")][:5] == [
        "## raw", "## averaged", "## mean", "## theirs", "## Row against row"]  # fmt: skip
    names = {f"{picture.removesuffix('.png')}-{base}.png" for picture in PICTURES for base in SUITE["bases"]}  # fmt: skip
    assert {f.name for f in (in_tmp / "results").glob("*.png")} == {n for n in names if "task_weights" not in n}  # fmt: skip
    code, text = run(["plan", "s.yaml"], in_tmp)
    assert code == 0, text
    assert f"{len(suite.nodes)} of {len(suite.nodes)} runs done" in text
