"""What an interval and a verdict mean."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from deme.report.rows import Number, Row
from deme.report.statistics import (
    Difference,
    interval_half_width,
    mean_of,
    paired_difference,
    resampled_units,
    smallest_detectable,
)
from deme.report.tables import show
from deme.report.terminal import text_table
from deme.runs import RowSettings, Suite, SuiteSettings
from deme.system import digits_for


def replicates(rng, cells, shift=0.0, spread=1.0):
    return {cell: list(rng.normal(shift, spread, 200)) for cell in cells}


def test_shared_noise_cancels_in_the_difference():
    rng = np.random.default_rng(0)
    base = {(None, s): 10.0 + s for s in (0, 1, 2)}
    row = {(f, s): base[None, s] - 0.5 for f in (0, 1) for s in (0, 1, 2)}
    noise = replicates(rng, base, spread=5.0)
    d = paired_difference(row, base, {(f, s): noise[None, s] for f, s in row}, noise, 5000)
    assert (d.value, d.low, d.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert d.verdict == "better"


def test_disagreeing_finetuning_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    base = {(None, s): 10.0 for s in (0, 1)}
    reps = replicates(rng, base, spread=0.01)
    agree = {(f, s): 9.0 for f in (0, 1) for s in (0, 1)}
    differ = {(f, s): 8.5 + f for f in (0, 1) for s in (0, 1)}
    flat = {cell: reps[None, cell[1]] for cell in agree}
    sure, unsure = (paired_difference(row, base, flat, reps, 5000) for row in (agree, differ))
    assert sure.verdict == "better"
    assert unsure.verdict == "not resolved"
    half = stats.t.ppf(0.975, 1) * np.std([-1.5, -0.5], ddof=1) / np.sqrt(2)
    assert unsure.high - unsure.value == pytest.approx(half, rel=1e-6)


def test_half_width_is_the_t_quantile_of_a_single_component():
    assert interval_half_width(4.0, 9, 0.0, 0) == pytest.approx(2 * stats.t.ppf(0.975, 9))


def test_no_common_sampling_seed_gives_no_difference():
    assert (
        paired_difference(
            {(0, 1): 1.0}, {(None, 2): 1.0}, {(0, 1): [1.0, 2]}, {(None, 2): [1.0, 2]}, 5000
        )
        is None
    )


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        effects = rng.normal(0, 0.3, 3)
        sampling = rng.normal(0, 0.2, 4)
        base = {(None, s): 0.0 for s in range(4)}
        row = {(f, s): effects[f] + sampling[s] for f in range(3) for s in range(4)}
        base_reps = {cell: [0.0] * 200 for cell in base}
        draws = {s: rng.normal(0, 0.2, 200) for s in range(4)}
        reps = {(f, s): list(draws[s]) for f, s in row}
        d = paired_difference(row, base, reps, base_reps, 5000)
        hits += d.low <= 0 <= d.high
    assert 0.90 <= hits / 400 <= 1.0


def test_more_seeds_detect_smaller_differences():
    one, many = (smallest_detectable(0.4, n, 0.2, f) for n, f in ((3, 2), (12, 8)))
    assert many < one
    assert smallest_detectable(0.4, 4, 0.0, 2) == pytest.approx((1.96 + 0.84) * 0.2, rel=0.02)


def test_few_resampled_images_widen_the_interval_as_students_t_does():
    rng = np.random.default_rng(2)
    x, count = rng.normal(size=12), 20_000
    means = x[rng.integers(0, len(x), (count, len(x)))].mean(1)
    cell, base = (0, 1), {(None, 1): 0.0}
    d = paired_difference(
        {cell: x.mean()}, base, {cell: means}, {(None, 1): np.zeros(count)}, len(x)
    )
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_the_interval_of_a_mean_is_students_where_nothing_is_skewed():
    x = [-2.0, -1.0, 0.5, 1.0, 2.0, 1.5, 3.0, 4.0, -3.0, -0.0]
    symmetric = [*x, *(2 - v for v in x)]
    expected = stats.ttest_1samp(symmetric, 0).confidence_interval(0.95)
    d = mean_of(symmetric)
    assert (d.value, d.low, d.high) == pytest.approx((1.0, expected.low, expected.high))
    assert mean_of([0.25, 0.25]).verdict == "worse"
    for label, more, less in (
        ({"better": "higher"}, "better", "worse"),
        ({"better": "lower"}, "worse", "better"),
    ):
        assert mean_of([0.25, 0.25]).of(label).verdict == more
        assert mean_of([-0.25, -0.25]).of(label).verdict == less
        assert mean_of([-1.0, 1.0, 0.5, -0.5]).of(label).verdict == "not resolved"


@pytest.mark.parametrize("sign", [1, -1])
def test_skewed_differences_fool_it_less_than_students_t(sign):
    rng, count = np.random.default_rng(3), 2000
    fooled = {"students": 0, "ours": 0, "wider": 0}
    for _ in range(count):
        x = sign * (np.exp(rng.normal(size=50)) - np.exp(0.5))  # of mean 0, with a long tail
        d, student = mean_of(x), stats.ttest_1samp(x, 0).confidence_interval(0.95)
        fooled["ours"] += d.verdict == ("better" if sign > 0 else "worse")
        fooled["students"] += (student.high < 0) if sign > 0 else (student.low > 0)
        fooled["wider"] += d.low <= student.low + 1e-12 and d.high >= student.high - 1e-12
    assert fooled["wider"] == count
    assert 0.08 < fooled["students"] / count < 0.12
    assert 0.04 < fooled["ours"] / count < 0.07


@pytest.mark.parametrize("value", [0.0, 1.5, 18.6, 250.0, 0.98781, 0.0831, 0.00081, 3.2e-7])
def test_small_scores_keep_their_digits(value):
    shown = f"{value:.{digits_for(value)}f}"
    assert float(shown) == pytest.approx(value, rel=5e-3)
    assert len(shown) <= 14


def test_a_score_is_as_sure_as_its_prompts_are_many():
    assert resampled_units({"n": 200, "prompts": 4}) == 4
    assert resampled_units({"n": 11_488, "num_images": 359}) == 359
    assert resampled_units({"n": 5000}) == 5000


def test_what_does_not_fit_the_terminal_is_a_table_for_each_metric(capsys, monkeypatch):
    about = {"n": 718, "better": "higher", "reference": "images", "implementation": "a test"}
    names = [f"a_metric_with_a_long_name_{i}" for i in range(4)]

    def shown(metrics, width):
        monkeypatch.setattr("deme.report.terminal.terminal_width", lambda: width)
        before = RowSettings(name="before", label="before", evaluate=())
        settings = SuiteSettings(suite="s", baseline="before", metrics=tuple(metrics), rows=(before,),
                                 finetune_seeds=(0,), sample_seeds=(1,))  # fmt: skip
        suite = Suite(Path("suite.yaml"), Path("runs"), settings)
        numbers = {
            name: Number(0.98781, 0.00686, 4, about, Difference(-0.00383, -0.00694, -0.00072, 2))
            for name in metrics
        }
        show(suite, [Row("row", "DeMe merged, uniform", numbers, (), 0, None)])
        return capsys.readouterr().out

    wide = shown(names, 150)
    assert wide.count("difference to before (95% interval)") == 4
    assert wide.count("-0.00383 [-0.00694, -0.00072]") == 4
    assert wide.count("training compute") == 4
    assert shown(names[:1], 150).count("training compute") == 1
    for width in (150, 100, 60, 40):
        text = shown(names, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert width == 40 or text.count("0.98781") == 4  # which breaks words
    piped = shown(names, None)  # no terminal: one table, and nothing wraps
    assert piped.count("training compute") == 1
    assert "DeMe merged, uniform" in piped


def test_a_long_label_wraps_and_the_numbers_beside_it_stay_whole(monkeypatch):
    monkeypatch.setattr("deme.report.terminal.terminal_width", lambda: 80)
    label = "DeMe without the consistency loss, four experts, merged with searched weights"
    number = "-0.00383 [-0.00694, -0.00072]"
    table = text_table("t", ["row", "difference to before (95% interval)"], [[label, number]])
    assert max(map(len, table.splitlines())) <= 80
    assert number in table
    assert all(word in table for word in label.split())


def test_a_part_of_one_image_has_no_interval():
    spread = {(0, 1): [2.0, 2.0]}, {(None, 1): [1.0, 1.0]}
    assert paired_difference({(0, 1): 2.0}, {(None, 1): 1.0}, *spread, 1) is None
