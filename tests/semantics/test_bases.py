"""The table of a suite of several bases: from made-up metrics to means, intervals and texts."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from deme.commands.compare import read_evaluations
from deme.commands.compare import run as compare
from deme.commands.plan import run as plan
from deme.commands.table import run as table
from deme.report.latex import latex
from deme.report.notes import ONE_SEED, notes
from deme.report.rows import Comparison, Number, Row, SuiteResults
from deme.report.statistics import Difference, RunSeeds, paired_difference, smallest_detectable
from deme.report.tables import comma_separated, comparisons_table, markdown
from deme.runs import Suite, SuiteOptions
from deme.system import BadConfig, files

EVALUATE = ["metrics=loss", "num_images=20"]
ROWS = [
    {"name": "pre", "label": "pre", "train": ["method=pretrain", "model=digits_unet"]},
    {"name": "real", "label": "real images", "evaluate": EVALUATE, "bases": []},
    {"name": "before", "label": "before", "evaluate": EVALUATE},
    {"name": "ft", "label": "finetuned", "train": ["num_steps=3"], "evaluate": EVALUATE},
    {"name": "some", "label": "of one base", "bases": ["raw"], "train": ["num_steps=4"], "evaluate": EVALUATE},
]  # fmt: skip
KEYS = {
    "suite": "s",
    "title": "Bases",
    "baseline": "before",
    "metrics": ["fd", "loss"],
    "finetune_seeds": [0, 1],
    "sample_seeds": [100, 101],
    "pretrain_seeds": [0, 1],
    "bases": {
        "raw": {"row": "pre", "weights": "raw", "label": "raw & noisy"},
        "averaged": {"row": "pre"},
    },
    "comparisons": [["ft", "before"], ["ft@raw", "before@averaged"], ["before@raw", "ft@averaged"]],
    "rows": ROWS,
}
GAINS = np.array([[1.0, 3.0], [2.0, 6.0]])  # of fd, by pretraining and finetuning seed
NUM_IMAGES = 1000
REPLICATES = np.array([-1.0, 1.0])  # around the value of what is finetuned


def write(folder, **keys):
    """Write a suite and finish its runs with made-up metrics; return it."""
    given = {key: value for key, value in {**KEYS, **keys}.items() if value is not None}
    (folder / "s.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    suite = Suite.read(folder / "s.yaml", folder / "runs")
    for node in suite.nodes:
        if node.stage == "train":
            made = {}
            for name in ("ema", "raw"):
                place = node.path / "weights" / name
                files.write_text(place / "config.json", json.dumps([node.title, name]))
                made[name] = files.sha256(place)
            files.write_json(node.path / "status.json", {"state": "done", "weights": made})
        else:
            evaluated(node)
            files.write_json(node.path / "status.json", {"state": "done"})
    return suite


def evaluated(node):
    """Write an evaluation: fd is 50 or 40 for the base, less 10 a pretraining seed, plus gains."""
    value = (50.0 if node.base_name == "raw" else 40.0) - 10 * (node.pretrain_seed or 0)
    value += node.sample_seed - 100
    spread = np.zeros(2)
    if node.row in ("ft", "some"):
        value += GAINS[node.pretrain_seed or 0, node.seed]
        spread = REPLICATES
    about = {"n": NUM_IMAGES, "reference": "r", "implementation": "i", "better": "lower"}
    found = {"fd": value, "loss": value / 1000}
    files.write_json(node.path / "metrics.json",
                     {"cell": {}, "metrics": {m: {**about, "value": v} for m, v in found.items()}})  # fmt: skip
    files.write_json(
        node.path / "replicates.json", {"fd": list(value + spread), "loss": [0.0, 0.0]}
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write(tmp_path_factory.mktemp("suite"))


def test_differences_are_taken_within_a_base_and_a_pretraining_seed(suite):
    rows = {(row.name, row.base): row.numbers["fd"] for row in SuiteResults(suite).rows()}
    assert [*rows] == [("real", "raw"), ("before", "raw"), ("ft", "raw"), ("some", "raw"),
                       ("real", "averaged"), ("before", "averaged"), ("ft", "averaged")]  # fmt: skip
    assert rows["before", "raw"].mean == 50.0 - 5 + 0.5
    assert rows["before", "averaged"].mean == 40.0 - 5 + 0.5
    assert rows["ft", "raw"].mean == 50.0 - 5 + 0.5 + 3
    assert rows["ft", "raw"].num_values == 8
    assert rows["before", "raw"].difference is None
    assert rows["real", "raw"].difference.value == -10 + 5
    for base in ("raw", "averaged"):
        difference = rows["ft", base].difference
        t = stats.t.ppf(0.975, 1)  # two replicates, two finetuning seeds, two pretraining seeds
        sampling = 2 * NUM_IMAGES / (NUM_IMAGES - 1)
        finetuning = np.var([1.5, 4.5], ddof=1) / 2
        pretraining = np.var([2.0, 4.0], ddof=1) / 2
        assert difference.value == 3.0
        assert difference.high - 3.0 == pytest.approx(
            t * np.sqrt(sampling + finetuning + pretraining)
        )
        assert (difference.num_finetune_seeds, difference.num_pretrain_seeds) == (2, 2)
        # of one difference: here all have the same replicates, so that their mean has it, too
        assert difference.spread.sampling == pytest.approx(np.sqrt(sampling))
        assert difference.spread.finetuning == pytest.approx(np.sqrt((2.0 + 8.0) / 2))
        assert difference.spread.pretraining == 0.0  # 2 between them is less than 5 / 2


def test_rows_are_compared_within_each_base_or_across_two(suite):
    found = [
        (c.label, c.other, c.base, c.differences["fd"]) for c in SuiteResults(suite).comparisons()
    ]
    assert [(*names, d.value) for *names, d in found] == [
        ("finetuned", "before", "raw & noisy", 3.0),
        ("finetuned", "before", "averaged", 3.0),
        ("finetuned (raw & noisy)", "before (averaged)", "", 13.0),
        ("before (raw & noisy)", "finetuned (averaged)", "", 7.0),
    ]
    within, _, across, turned = (d for *_, d in found)
    assert across.high - across.value == pytest.approx(within.high - within.value)
    assert turned.value - turned.low == pytest.approx(within.high - within.value)
    assert turned.num_pretrain_seeds == 2


def test_every_kind_of_table_has_a_part_for_each_base(suite, capsys):
    rows = SuiteResults(suite).rows()
    page = markdown(suite, rows, SuiteResults(suite).comparisons())
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == ["# Bases", "## raw &amp; noisy", "## averaged", "## Row against row"]
    assert page.count("| finetuned | 48.50 ± ") == 1
    assert page.count("| real images | 40.50 ± ") == 2
    assert page.count("| of one base |") == 1
    lines = latex(suite, rows).splitlines()
    assert r"\multicolumn{6}{l}{raw \& noisy} \\" in lines
    assert lines.count(r"\midrule") == 4
    table_lines = [*csv.DictReader(comma_separated(suite, rows).splitlines())]
    ft = next(one for one in table_lines if (one["row"], one["base"], one["metric"]) == ("ft", "averaged", "fd"))  # fmt: skip
    assert (ft["num_pretrain_seeds"], ft["num_finetune_seeds"]) == ("2", "2")
    assert float(ft["sd_finetuning"]) == pytest.approx(5**0.5)
    table(suite)
    shown = capsys.readouterr().out
    assert "Bases: raw & noisy" in shown
    assert "| finetuned" in page
    assert "pretraining seeds [0, 1], sampling seeds" in shown
    pictures = {file.name for file in suite.results.glob("*.png")}
    assert pictures == {"differences-raw.png", "differences-averaged.png"}
    table(suite)  # its own pictures may be replaced
    (suite.results / "s.csv").unlink()
    table(suite)


def test_one_pretraining_is_said_to_be_one(in_tmp):
    suite = write(in_tmp, pretrain_seeds=None)
    rows = SuiteResults(suite).rows()
    found = notes(suite, rows)
    assert [note for note in found if note.startswith("One pretraining of each base")]
    ft = next(row for row in rows if (row.name, row.base) == ("ft", "averaged")).numbers["fd"]
    alone = paired_difference(
        {(f, s): 40.0 + s + GAINS[0, f] for f in (0, 1) for s in (0, 1)},
        {(None, s): 40.0 + s for s in (0, 1)},
        {(f, s): 40.0 + s + GAINS[0, f] + REPLICATES for f in (0, 1) for s in (0, 1)},
        {(None, s): [40.0 + s] * 2 for s in (0, 1)},
        NUM_IMAGES,
    )
    assert (ft.difference.low, ft.difference.high) == pytest.approx((alone.low, alone.high))
    assert ft.difference.num_pretrain_seeds == alone.num_pretrain_seeds == 0


def test_one_finetuning_seed_of_several_bases_is_about_more_than_its_weights(in_tmp):
    suite = write(in_tmp, finetune_seeds=[1])
    rows = SuiteResults(suite).rows()
    difference = next(row for row in rows if row.name == "ft").numbers["fd"].difference
    half = stats.t.ppf(0.975, 1) * np.sqrt(2 * NUM_IMAGES / (NUM_IMAGES - 1) + np.var([3, 6], ddof=1) / 2)  # fmt: skip
    assert difference.high - difference.value == pytest.approx(half)
    assert not difference.of_one_model
    found = notes(suite, rows)
    assert ONE_SEED not in found
    assert [note for note in found if note.startswith("One finetuning seed: the variance")]
    single = write(in_tmp, finetune_seeds=[1], pretrain_seeds=[1])
    one = (
        next(row for row in SuiteResults(single).rows() if row.name == "ft")
        .numbers["fd"]
        .difference
    )
    assert one.of_one_model


def test_a_row_without_finetuning_differs_from_a_finetuned_baseline(in_tmp):
    suite = write(in_tmp, baseline="ft", rows=[*ROWS[:1], *ROWS[2:4]])
    rows = {
        (row.name, row.base): row.numbers["fd"].difference for row in SuiteResults(suite).rows()
    }
    other = next(
        c for c in SuiteResults(suite).comparisons() if c.base == "raw & noisy"
    ).differences["fd"]
    assert rows["before", "raw"].value == -3.0
    assert (rows["before", "raw"].low, rows["before", "raw"].high) == (-other.high, -other.low)


def test_published_numbers_and_power_may_be_those_of_one_base(in_tmp, capsys):
    files.write_json(in_tmp / "e.json", {"rows": {"ft@raw": {"fd": 7}, "before": {"fd": 8}}})
    sd = {"sampling": 0.5, "finetuning": 1.0, "pretraining": 2.0}
    more = {"sampling": 3.0, "finetuning": 1.0}
    power = {
        "paired_sd": {"fd": sd, "fd@raw": more, "loss": more},
        "paired_sd_from": "experiments/other",
    }
    suite = write(in_tmp, expected="e.json", plan=power)
    expected = {(row.name, row.base): row.expected for row in SuiteResults(suite).rows()}
    assert expected["ft", "raw"] == {"fd": 7}
    assert expected["ft", "averaged"] == {}
    assert expected["before", "averaged"] == expected["before", "raw"] == {"fd": 8}
    plan(suite, SuiteOptions())
    shown = capsys.readouterr().out.splitlines()
    assert sum("from experiments/other)" in line for line in shown) == 3
    lines = [line for line in shown if "power" in line]
    assert [line.split(":")[0].strip() for line in lines] == [
        "within raw", "within averaged", "within raw, averaged"]  # fmt: skip
    assert f"of {smallest_detectable(0.5, 2, 1.0, 2, 2.0, 2):.2g} is detected" in lines[1]
    assert "at 2 pretraining x 2 finetuning x 2 sampling seeds" in lines[1]


def frozen(node):
    """Copy an evaluation into this directory, with its config as runs have it; return its name."""
    shutil.copytree(node.path, node.path.name)
    files.write_text(Path(node.path.name) / "config.yaml", yaml.safe_dump(node.run.config))
    return node.path.name


def test_two_evaluations_are_compared_within_pretraining_seeds(suite, in_tmp, capsys):
    runs, others, averaged = (
        [frozen(node) for node in suite.evaluations(*row)]
        for row in (("ft", "raw"), ("before", "raw"), ("before", "averaged"))
    )
    assert {(c.seed, c.sample_seed, c.pretrain_seed) for c in read_evaluations(runs)} == {
        (f, s, p) for f in (0, 1) for s in (100, 101) for p in (0, 1)
    }
    compare([",".join(runs), ",".join(others)])
    shown = capsys.readouterr().out
    (within,) = {
        c.differences["fd"] for c in SuiteResults(suite).comparisons() if c.base == "raw & noisy"
    }
    assert f"+3.00 [{within.low:+.2f}, {within.high:+.2f}]" in shown
    assert "and that between 2 pretraining seeds" in shown
    with pytest.raises(BadConfig, match="no pretraining seed in common"):
        compare(
            [",".join(r for r in runs if "-p0-" in r), ",".join(o for o in others if "-p1-" in o)]
        )
    with pytest.raises(BadConfig, match="have pretraining seed 0, finetuning seed None"):
        compare([runs[0], ",".join(others + averaged)])


def test_more_pretraining_seeds_detect_smaller_differences():
    found = [smallest_detectable(0.2, 3, 0.5, 3, 1.0, n) for n in (2, 3, 5, 20)]
    assert found == sorted(found, reverse=True)
    assert smallest_detectable(0.2, 3, 0.5, 3, 1.0, 1) == smallest_detectable(0.2, 3, 0.5, 3)
    # without any spread of its own, many bases are worth as many finetuning seeds
    many = smallest_detectable(0.0, 1, 1.0, 1, 0.0, 400)
    assert many == pytest.approx((1.96 + 0.84) / 20, rel=0.02)


def test_rows_exchanged_give_the_same_difference_with_the_other_sign():
    draw = np.random.default_rng(0)
    one = {RunSeeds(s, n, p): draw.normal() for s in (0, 1) for n in (7, 8) for p in (0, 1)}
    two = {RunSeeds(None, n, p): draw.normal() for n in (7, 8) for p in (0, 1)}
    of_one, of_two = ({cell: draw.normal(size=9) for cell in each} for each in (one, two))
    forth = paired_difference(one, two, of_one, of_two, 100)
    back = paired_difference(two, one, of_two, of_one, 100)
    assert [back.value, back.low, back.high] == pytest.approx([-forth.value, -forth.high, -forth.low])  # fmt: skip
    assert (back.num_finetune_seeds, back.num_pretrain_seeds) == (2, 2)
    assert forth.spread.sampling == pytest.approx(back.spread.sampling)
    assert forth.spread.finetuning == pytest.approx(back.spread.finetuning)


def test_a_row_of_no_base_is_paired_with_every_pretraining_seed():
    row = {RunSeeds(None, s): 1.0 for s in (0, 1)}
    base = {RunSeeds(None, s, p): 5.0 + p for s in (0, 1) for p in (0, 1, 2)}
    zero = {cell: [0.0, 0.0] for cell in (*row, *base)}
    d = paired_difference(row, base, zero, zero, 100)
    assert d.value == -5.0
    assert d.high + 5 == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
    assert (d.num_finetune_seeds, d.num_pretrain_seeds) == (0, 3)


def test_real_data_does_not_decide_the_decimals_of_comparisons():
    """The distance of real data can be below 1, where five decimals would be shown."""
    difference = Difference(-0.4, -0.7, -0.1, 3)
    numbers = {
        "real": Number(0.5, None, 1, {}, None),
        "routed": Number(5.9, None, 3, {}, difference),
    }
    rows = [Row(name, name, {"fd": one}, (), 0, None, base="raw") for name, one in numbers.items()]
    compared = [Comparison("routed", "finetune", {"fd": difference}, "raw")]
    (line,) = comparisons_table(["fd"], rows, compared).lines
    assert line == ["routed", "finetune", "raw", "-0.40 [-0.70, -0.10]", "better"]
