"""How often a 95% interval holds the true difference, over the spread between seeds."""

import numpy as np
import pytest

from deme.report.statistics import (
    RunSeeds,
    interval_half_width,
    paired_difference,
    smallest_detectable,
)

COUNT = 20_000
SEEDS = [(finetune, sample) for finetune in (1, 2, 3, 5) for sample in (1, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(("finetune", "sample"), SEEDS)
def test_95_percent_are_covered_and_the_smallest_detectable_is_found_in_80(finetune, sample, ratio):
    """`ratio`: standard deviation between finetuning seeds, in those of one sampled difference.

    The interval of one finetuning seed is of its weights: their effect is not among its errors.
    """
    rng = np.random.default_rng([finetune, sample, ratio])
    sampling, df = 1 / sample, 199
    error = rng.normal(0, np.sqrt(sampling), COUNT)
    effects = rng.normal(0, ratio, (COUNT, finetune))
    error = error + effects.mean(1) * (finetune > 1)
    estimates = sampling * rng.chisquare(df, COUNT) / df
    between = effects.var(1, ddof=1) / finetune if finetune > 1 else np.zeros(COUNT)
    half = np.array(
        [
            interval_half_width(s, df, b, finetune - 1)
            for s, b in zip(estimates, between, strict=True)
        ]
    )
    assert 0.94 <= np.mean(np.abs(error) <= half) <= 0.995
    found = error + smallest_detectable(1, sample, ratio, finetune) > half
    assert 0.77 <= np.mean(found) <= 0.83


@pytest.mark.parametrize("finetune", [2, 3])
def test_seeds_that_agree_by_chance_are_not_trusted(finetune):
    """600 tables of 3 sampling seeds whose finetuning seeds differ three times as much."""
    rng = np.random.default_rng(finetune)
    seeds = [(f, s) for f in range(finetune) for s in range(3)]
    covered = 0
    for _ in range(600):
        effects, noise = rng.normal(0, 3, finetune), rng.normal(0, 1, 3)
        replicates = dict(enumerate(rng.normal(0, 1, (3, 200))))
        found = paired_difference(
            {(f, s): effects[f] + noise[s] for f, s in seeds},
            {(None, s): 0.0 for s in range(3)},
            {(f, s): replicates[s] for f, s in seeds},
            {(None, s): np.zeros(200) for s in range(3)},
            5000,
        )
        covered += found.low <= 0 <= found.high
    assert covered / 600 >= 0.94


def half_widths(sampling, finetuning, finetuning_df, pretraining, pretraining_df):
    """interval_half_width of arrays of variances, whose squares it adds."""
    dfs = (199, finetuning_df, pretraining_df)
    factors = [
        interval_half_width(*(x for v, df in zip(unit, dfs, strict=True) for x in (v, df))) ** 2
        for unit in np.eye(3)
    ]
    half = np.sqrt(factors[0] * sampling + factors[1] * finetuning + factors[2] * pretraining)
    for i in range(3):
        assert half[i] == pytest.approx(
            interval_half_width(
                sampling[i], 199, finetuning[i], finetuning_df, pretraining[i], pretraining_df
            )
        )
    return half


def simulated(rng, shape, pretraining, finetuning, shared):
    """Differences by table, pretraining and finetuning seed, without the errors of sampling.

    `pretraining`: standard deviation between bases. `finetuning`: of what each model has for
    itself. `shared`: of what a finetuning seed does on every base alike. What there is one seed of
    shows in no interval and is left out: of one model all of that, of one finetuning seed of
    several bases what it shares.
    """
    _, num_bases, num_seeds = shape
    found = rng.normal(0, finetuning * (num_bases * num_seeds > 1), shape)
    found += rng.normal(0, pretraining * (num_bases > 1), (COUNT, num_bases, 1))
    return found + rng.normal(0, shared * (num_seeds > 1), (COUNT, 1, num_seeds))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize("sample", [1, 3])
@pytest.mark.parametrize("finetune", [1, 2, 3])
@pytest.mark.parametrize("pretrain", [1, 2, 3])
def test_pretraining_seeds_are_covered_at_every_ratio_of_spreads(
    pretrain, finetune, sample, common, shared
):
    """`common`: all models have the same error of sampling, as pairs of close models do; or none.

    The others are standard deviations in those of one sampled difference.
    """
    rng = np.random.default_rng([pretrain, finetune, sample, common, shared])
    shape = (COUNT, pretrain, finetune)
    variance = 1 / sample / (1 if common else pretrain * finetune)
    for between in (0, 1, 3):
        for within in (0, 1, 3):
            values = simulated(rng, shape, between, within, shared)
            error = (COUNT, 1, 1) if common else shape
            values = values + rng.normal(0, np.sqrt(1 / sample), error)
            by_seed, by_base = values.mean(1), values.mean(2)
            half = half_widths(
                variance * rng.chisquare(199, COUNT) / 199,
                by_seed.var(1, ddof=1) / finetune if finetune > 1 else np.zeros(COUNT),
                finetune - 1,
                by_base.var(1, ddof=1) / pretrain if pretrain > 1 else np.zeros(COUNT),
                pretrain - 1,
            )
            mean = values.mean((1, 2))
            covered = np.mean(np.abs(mean) <= half)
            assert covered >= 0.94, (between, within)
            if common and not shared:  # as the plan assumes
                least = smallest_detectable(1, sample, within, finetune, between, pretrain)
                assert 0.77 <= np.mean(mean + least > half) <= 0.86, (between, within)


@pytest.mark.slow
def test_an_interval_from_pretraining_seeds_alone_misses_what_finetuning_seeds_share():
    """Why the variance between finetuning seeds counts beside that between pretraining seeds."""
    rng = np.random.default_rng(0)
    values = simulated(rng, (COUNT, 3, 3), 0, 1, 3) + rng.normal(0, 1, (COUNT, 1, 1))
    sampling, nothing = np.ones(COUNT), np.zeros(COUNT)
    by_base = values.mean(2).var(1, ddof=1) / 3
    alone = half_widths(sampling, nothing, 0, by_base, 2)
    assert np.mean(np.abs(values.mean((1, 2))) <= alone) < 0.8
    both = half_widths(sampling, values.mean(1).var(1, ddof=1) / 3, 2, by_base, 2)
    assert np.mean(np.abs(values.mean((1, 2))) <= both) >= 0.94


@pytest.mark.parametrize("shared", [0, 3])
def test_tables_of_pretraining_seeds_cover(shared):
    """300 tables of 3 pretraining seeds, 2 finetuning seeds and 2 sampling seeds."""
    rng = np.random.default_rng(shared)
    cells = [RunSeeds(f, s, p) for f in range(2) for s in range(2) for p in range(3)]
    base = {RunSeeds(None, s, p): 0.0 for s in range(2) for p in range(3)}
    covered = 0
    for _ in range(300):
        own, seed, bases = rng.normal(0, 1, (2, 3)), rng.normal(0, shared, 2), rng.normal(0, 2, 3)
        noise, replicates = rng.normal(0, 1, 2), rng.normal(0, 1, (2, 200))
        found = paired_difference(
            {c: own[c[0], c[2]] + seed[c[0]] + bases[c[2]] + noise[c[1]] for c in cells},
            base,
            {c: replicates[c.sample_seed] for c in cells},
            {c: np.zeros(200) for c in base},
            5000,
        )
        covered += found.low <= 0 <= found.high
        assert (found.num_finetune_seeds, found.num_pretrain_seeds) == (2, 3)
    assert covered / 300 >= 0.94
