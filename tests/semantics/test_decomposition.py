"""The parts of a merged model's gain: they add up, and intervals are those of the rows that differ."""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from deme.analysis.decomposition import TOTAL, decomposition
from deme.report import differences
from deme.report.differences import CsvTable
from deme.report.statistics import Difference, student_quantile
from deme.report.tables import CSV_COLUMNS
from deme.runs import Suite
from deme.system import BadConfig, WorkFailed, files

PARTS = {
    "averaging": "averaged",
    "finetuning": "soup",
    "consistency": "consistency_soup",
    "decoupling": "routed",
    "merging": "merged",
}
LEVELS = {  # made up: fd, half width of the interval of its difference to `raw`
    "raw": (41.8, None), "averaged": (20.8, 3.1), "soup": (18.4, 2.0), "consistency_soup": (28.3, 1.5),
    "routed": (16.5, 2.5), "merged": (19.0, 0.4),
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """A table as `deme table` writes it, with a metric of which higher is better."""
    file = tmp_path / "made_up.csv"
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, CSV_COLUMNS, restval="")
        writer.writeheader()
        for row, (level, half) in LEVELS.items():
            for metric, sign in (("fd_digits", 1), ("agreement", -1), ("loss/0", 1)):
                cells = {"row": row, "metric": metric, "mean": sign * level}
                if half is not None:
                    value = sign * (level - LEVELS["raw"][0])
                    cells |= {"difference": value, "low": value - half, "high": value + half,
                              "verdict": "better", "num_finetune_seeds": 3}  # fmt: skip
                writer.writerow(cells)
    return file


def test_the_parts_add_up_to_the_gain_of_the_merged_model(table, tmp_path):
    found = decomposition(str(table), tmp_path, "raw", PARTS).numbers
    assert list(found["metrics"]) == ["fd_digits", "agreement"]
    for metric, sign in (("fd_digits", 1), ("agreement", -1)):
        parts = dict(found["metrics"][metric]["parts"])
        total = parts.pop(TOTAL)
        assert list(parts) == list(PARTS)
        assert total["value"] == pytest.approx(sign * (19.0 - 41.8), abs=1e-12)
        assert math.fsum(each["value"] for each in parts.values()) == pytest.approx(
            total["value"], abs=1e-12
        )
        values = [sign * each["value"] for each in parts.values()]
        assert values == pytest.approx([-21, -2.4, 9.9, -11.8, 2.5])
        verdicts = [each["verdict"] for each in parts.values()]
        assert verdicts == ["better", "not resolved", "worse", "better", "not resolved"]
    json.dumps(found, allow_nan=False)


def test_the_interval_of_two_rows_is_that_of_independent_differences(table):
    (part, total) = CsvTable(table).differences(
        [("soup", "averaged"), ("merged", "raw")], ["fd_digits"]
    )
    assert part["fd_digits"].high - part["fd_digits"].value == pytest.approx(math.hypot(3.1, 2.0))
    assert total["fd_digits"].high - total["fd_digits"].value == pytest.approx(0.4)


def test_a_part_can_be_left_out(table, tmp_path):
    parts = {**PARTS, "averaging": None, "consistency": None}
    found = decomposition(str(table), tmp_path, "averaged", parts, ["fd_digits"])
    assert [line[0] for line in found.table[1:]] == ["finetuning", "decoupling", "merging", TOTAL]
    assert [line[1] for line in found.table[1:]] == ["-2.40", "-1.90", "+2.50", "-1.80"]
    titles = [text.get_text() for text in found.figure.axes[0].get_yticklabels()]
    assert titles == [
        "averaged",
        "finetuning → soup",
        "decoupling → routed",
        "merging → merged",
        TOTAL,
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": None}, ["type: figure.table="]),
        ({"start": "rwa"}, ["'rwa'", "did you mean 'raw'?", "averaged"]),
        ({"parts": {"merging": "x"}}, ["row 'x'", "merged", "null"]),
        ({"parts": {"merging": None}}, ["no part"]),
        ({"metrics": ["fid"]}, ["metric 'fid'", "fd_digits, agreement"]),
    ],
)
def test_what_the_table_does_not_have_is_named(change, words, table, tmp_path):
    given = {"table": str(table), "runs": tmp_path, "start": "raw", "parts": PARTS, **change}
    with pytest.raises(BadConfig) as caught:
        decomposition(**given)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column row"),
        ("{head}raw,fd,nan\n", "line 2"),
        ("{head}raw,fd,abc\n", "line 2"),
    ],
)
def test_a_damaged_table_is_one_message(text, words, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(text.format(head=",".join(differences.COLUMNS) + "\n"))
    with pytest.raises(WorkFailed, match=words):
        CsvTable(file)


def test_parts_that_do_not_add_up_are_refused(monkeypatch, tmp_path):
    class Uneven:
        intervals, metrics, labels = "made up", ("fd",), {}

        @property
        def means(self):
            return {"a": {"fd": 3.0}, "b": {"fd": 2.0}, "c": {"fd": 1.0}}

        def differences(self, pairs, metrics):
            return [{"fd": Difference(-1.0 - 0.1 * i, -2, 0, 1)} for i, _ in enumerate(pairs)]

    monkeypatch.setattr("deme.analysis.decomposition.open_table", lambda *_: Uneven())
    with pytest.raises(WorkFailed, match="same finetuning and sampling seeds"):
        decomposition("x", Path(), "a", {"one": "b", "two": "c"})


def test_rows_of_a_written_table_of_several_bases_are_told_apart(tmp_path):
    file = tmp_path / "t.csv"
    head = "row,metric,mean,difference,low,high,verdict,num_finetune_seeds,base,num_pretrain_seeds"
    lines = [
        "before,fd,40,,,,,,raw,3",
        "soup,fd,30,-10,-12,-8,better,3,raw,3",
        "before,fd,20,,,,,,averaged,3",
        "soup,fd,19,-1,-2,0.5,not resolved,3,averaged,3",
    ]
    file.write_text("\n".join([head, *lines]) + "\n")
    table = CsvTable(file)
    pairs = [("soup@raw", "before@raw"), ("soup@averaged", "before@averaged")]
    one, two = (each["fd"] for each in table.differences(pairs, ["fd"]))
    assert (one.value, one.low, one.high, two.value) == (-10, -12, -8, -1)
    assert (one.num_finetune_seeds, one.num_pretrain_seeds) == (3, 3)
    with pytest.raises(BadConfig, match=r"(?s)before@averaged to before@raw.*figure.table=<the s"):
        decomposition(str(file), tmp_path, "before@raw", {"averaging": "before@averaged"})


def test_a_row_without_a_difference_is_not_taken_for_the_baseline(tmp_path):
    file = tmp_path / "t.csv"
    head = "row,metric,mean,difference,low,high,verdict,num_finetune_seeds"
    lines = ["uniform,fd,20,,,,,3", "before,fd,25,,,,,0", "grid,fd,18,-2,-3,-1,better,3"]
    file.write_text("\n".join([head, *lines]) + "\n")
    pairs = [("grid", "uniform"), ("uniform", "grid"), ("grid", "before")]
    one, turned, unknown = (each["fd"] for each in CsvTable(file).differences(pairs, ["fd"]))
    assert (one.value, one.low, one.high) == (-2, -3, -1)
    assert (turned.value, turned.low, turned.high) == (2, 1, 3)
    assert unknown is None


BASES_PARTS = {
    "averaging": "before@averaged",
    "finetuning": "soup@averaged",
    "consistency": "soup_consistency@averaged",
    "decoupling": "routed_consistency@averaged",
    "merging": "merged_consistency@averaged",
}
GAINS = (0.0, 2.0, 1.0, 4.0, 3.0)  # of fd to the averaged base, in the order of the parts


def suite_of_two_bases(folder, left_out=None):
    """Three pretrainings, raw and averaged, with three finetuning seeds, and made-up metrics.

    fd is 50 or 40 and 10 less for each pretraining seed; a row's gain grows by a tenth with each
    finetuning and by a fifth with each pretraining seed. `left_out`: a row without its last seed.
    """
    evaluate = ["metrics=loss", "num_images=20"]
    rows = [name.partition("@")[0] for name in BASES_PARTS.values()]
    keys = {
        "suite": "s", "title": "s", "baseline": "before", "metrics": ["fd"],
        "finetune_seeds": [0, 1, 2], "sample_seeds": [100], "pretrain_seeds": [0, 1, 2],
        "bases": {"raw": {"row": "pre", "weights": "raw"}, "averaged": {"row": "pre"}},
        "rows": [
            {"name": "pre", "label": "pre", "train": ["method=pretrain", "model=digits_unet"]},
            {"name": "before", "label": "before", "evaluate": evaluate},
            *({"name": row, "label": row, "bases": ["averaged"], "evaluate": evaluate,
               "train": [f"num_steps={3 + number}"]} for number, row in enumerate(rows[1:])),
        ],
    }  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump(keys))
    suite = Suite.read(folder / "s.yaml", folder / "runs")
    for node in suite.nodes:
        status = {"state": "done"}
        if node.stage == "train":
            status["weights"] = {}
            for name in ("ema", "raw"):
                place = node.path / "weights" / name
                files.write_text(place / "config.json", json.dumps([node.title, name]))
                status["weights"][name] = files.sha256(place)
        elif node.row == left_out and node.seed == 2:
            continue
        else:
            value = (50.0 if node.base_name == "raw" else 40.0) - 10 * node.pretrain_seed
            growth = 1 + 0.1 * (node.seed or 0) + 0.2 * node.pretrain_seed
            value -= GAINS[rows.index(node.row)] * growth
            one = {"value": value, "n": 20, "reference": "r", "implementation": "i", "better": "lower"}  # fmt: skip
            files.write_json(node.path / "metrics.json", {"cell": {}, "metrics": {"fd": one}})
            files.write_json(node.path / "replicates.json", {"fd": [value] * 2})
        files.write_json(node.path / "status.json", status)
    return suite


def test_parts_of_several_bases_are_paired_by_pretraining_and_finetuning_seed(tmp_path):
    suite = suite_of_two_bases(tmp_path)
    made = decomposition(str(suite.file), tmp_path / "runs", "before@raw", BASES_PARTS)
    found = made.numbers["metrics"]["fd"]
    assert found["start"] == 40.0
    mean, t = 1 + 0.1 + 0.2, student_quantile(2, 0.975)
    changes = [-10, *(mean * (before - after) for before, after in pairwise(GAINS))]
    for (name, part), change in zip(found["parts"].items(), [*changes, sum(changes)], strict=True):
        assert part["value"] == pytest.approx(change), name
        seeds = 0 if name == "averaging" else 3
        assert (part["num_finetune_seeds"], part["num_pretrain_seeds"]) == (seeds, 3)
    assert found["parts"]["averaging"]["low"] == pytest.approx(-10)  # the same at every seed
    finetuning = found["parts"]["finetuning"]
    half = t * math.sqrt((0.2**2 + 0.4**2) / 3)  # of means over three seeds of each kind
    assert finetuning["high"] - finetuning["value"] == pytest.approx(half)
    assert "pretraining and finetuning seeds" in made.numbers["intervals"]
    titles = [text.get_text() for text in made.figure.axes[0].get_yticklabels()]
    labels = {row.name: row.label for row in suite.settings.rows}
    assert titles[:3] == [
        f"{labels['before']}, raw base",
        f"averaging → {labels['before']}, averaged base",
        f"finetuning → {labels['soup']}",  # from the same base as the bar above
    ]


def test_a_row_of_which_a_seed_is_missing_is_refused(tmp_path):
    suite = suite_of_two_bases(tmp_path, left_out="soup")
    with pytest.raises(WorkFailed, match="same finetuning and sampling seeds"):
        decomposition(str(suite.file), tmp_path / "runs", "before@raw", BASES_PARTS)


def test_a_row_without_its_base_is_a_mistake_that_says_what_there_is(tmp_path):
    suite = suite_of_two_bases(tmp_path)
    with pytest.raises(BadConfig, match=r"no row 'soup'; allowed: .*soup@averaged"):
        decomposition(str(suite.file), tmp_path / "runs", "before@raw", {"finetuning": "soup"})
