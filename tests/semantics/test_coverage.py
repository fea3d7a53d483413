"""How often a 95% interval holds the true difference, over the spread between finetuning seeds."""

import numpy as np
import pytest

from deme.report.statistics import interval_half_width, paired_difference, smallest_detectable

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
