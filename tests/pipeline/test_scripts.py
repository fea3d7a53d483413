"""Programs beside the suites that read finished runs, on made-up ones."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from deme.runs import Suite
from deme.system import files

ROOT = Path(__file__).parents[2]


def program(monkeypatch, folder, name):
    monkeypatch.syspath_prepend(str(ROOT / folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


def test_the_searches_are_compared_by_strategy(tmp_path, monkeypatch):
    fake = program(monkeypatch, "benchmarks", "planning").fake
    suite = Suite.read(ROOT / "experiments" / "merge_search" / "suite.yaml", tmp_path / "runs")
    rng = np.random.default_rng(0)
    for node in suite.nodes:
        fake(node, rng)
        if node.stage == "search":
            rows = [{"score": 40.0 - i, "fraction": 1.0, "images": 500} for i in range(4)]
            files.write_text(
                node.run.path / "evaluations.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
            )
            cost = {"num_forward_passes": 5000, "evaluations": 4, "images": 2000, "seconds": 1.0}
            (node.run.path / "cost.json").write_text(json.dumps(cost))
            status = json.loads((node.run.path / "status.json").read_text())
            del status["outputs"]  # of other sizes now
            (node.run.path / "status.json").write_text(json.dumps(status))
    compare = program(monkeypatch, "experiments/merge_search", "compare")
    compare.main(tmp_path / "runs", tmp_path / "results")
    with open(tmp_path / "results" / "searches.csv") as file:
        rows = {row["strategy"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(compare.STRATEGIES)
    assert {row["num_forward_passes"] for row in rows.values()} == {"5000.0"}
    for row in rows.values():
        low, value, high = (float(row[f"to_uniform{end}"]) for end in ("_low", "", "_high"))
        assert low < value < high
    text = (tmp_path / "results" / "searches.md").read_text()
    assert text.count("| 2,000, 2,000, 2,000 |") == 4  # strategies that look at images
    assert (tmp_path / "results" / "searches.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "network", "millions"),
    [("train_step", "CIFAR10", 35.7), ("distill_step", "COMPACT", 9.0)],
)
def test_the_networks_of_the_benchmarks_can_be_built(monkeypatch, name, network, millions):
    spec = getattr(program(monkeypatch, "benchmarks", name), network)
    assert spec["dropout"] == 0
    with torch.device("meta"):
        unet = UNet2DModel(**spec)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(millions * 1e6, rel=0.01)
