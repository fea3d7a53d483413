"""Numbers of a table: how they are written, and paired comparisons with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deme.system import JsonObject

# One evaluation: (finetuning seed or None, sampling seed) -> value, or bootstrap replicates.
Cell = tuple[int | None, int]


def digits_for(value: float) -> int:
    """Return how many decimals show four significant digits of a value like those in the column."""
    return 2 if abs(value) >= 1 else 5


def student_quantile(df: float, probability: float) -> float:
    """Return the quantile of Student's t distribution with `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline: mean over seeds, 95% interval and what it was taken over."""

    value: float
    low: float
    high: float
    num_finetune_seeds: int  # 1: the interval is of sampling alone; 0: nothing was finetuned
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """better, worse or not resolved."""
        if self.low <= 0 <= self.high:
            return "not resolved"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"

    def of(self, about: JsonObject) -> "Difference":
        """Return the same of a metric, whose label says which way is better."""
        return replace(self, higher_is_better=about.get("better") == "higher")


def resampled_units(about: JsonObject) -> int:
    """Return how many things the bootstrap of a metric resampled: prompts of a score, or images."""
    return int(about.get("prompts", about.get("num_images", about["n"])))


def paired_difference(
    values: Mapping[Cell, float],
    base: Mapping[Cell, float],
    replicates: Mapping[Cell, Sequence[float]],
    base_replicates: Mapping[Cell, Sequence[float]],
    num_units: int,
) -> Difference | None:
    """Return row minus baseline over their common sampling seeds.

    None if they have no common seed or are of one image.

    The variance of the mean by sampling is n / (n - 1) times that of its paired bootstrap
    replicates, which resample n = `num_units` images or prompts; to it comes the variance between
    finetuning seeds / their number (interval_half_width). With one finetuning seed that is unknown:
    the interval speaks of these weights, and leaves out what another seed would have given.
    """
    pairs = [
        (cell, other)
        for cell in values
        for other in base
        if cell[1] == other[1] and other[0] in (None, cell[0])
    ]
    if not pairs or num_units < 2:
        return None
    value = float(np.mean([values[cell] - base[other] for cell, other in pairs]))
    boot = np.mean(
        [np.subtract(replicates[cell], base_replicates[other]) for cell, other in pairs], axis=0
    )
    sampling = float(boot.var(ddof=1)) * num_units / (num_units - 1)
    seeds = sorted({cell[0] for cell, _ in pairs}, key=str)
    by_seed = [np.mean([values[c] - base[o] for c, o in pairs if c[0] == seed]) for seed in seeds]
    between = float(np.var(by_seed, ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    half = interval_half_width(sampling, min(len(boot), num_units) - 1, between, len(seeds) - 1)
    num_seeds = len([seed for seed in seeds if seed is not None])
    return Difference(value, value - half, value + half, num_seeds)


def mean_of(differences: Sequence[float]) -> Difference:
    """Return the mean of paired differences of images with Student's 95% interval.

    The interval is wider on a side where skewness asks for it. Where large differences are rare, a
    sample's mean misses them more often than Student's t believes: at 50 lognormal differences a
    limit is on the wrong side of their mean in 10% of samples, with Hall's transformation of t
    (Hall, "On the removal of skewness by transformation", 1992) in 5.5%; 2.5% are meant.
    """
    x = np.asarray(differences, dtype=np.float64)
    value, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))
    if error == 0:
        return Difference(value, value, value, 1)
    t = student_quantile(len(x) - 1, 0.975)
    skewness = float(((x - value) ** 3).mean() / x.std() ** 3) / math.sqrt(len(x))
    low, high = (value - error * _hall(limit, skewness) for limit in (t, -t))
    return Difference(value, min(low, value - error * t), max(high, value + error * t), 1)


def _hall(t: float, skewness: float) -> float:
    """Return what t must be for its transformation, which has no skewness, to be `t`.

    `skewness` is that of the mean.
    """
    if abs(skewness) < 1e-9:
        return t
    return 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)


def interval_half_width(
    sampling: float, sampling_df: int, between: float, between_df: int
) -> float:
    """Return the half width of a 95% interval for a mean with two variances.

    Each variance of the mean comes with its degrees of freedom and its own quantile of Student's
    t: the square root of t(sampling_df)^2 sampling + t(between_df)^2 between. One t with
    Welch-Satterthwaite's degrees of freedom covers 88% at two finetuning seeds that agree by
    chance; this covers 94.6% to 99% from two seeds on (tests/semantics/test_coverage.py).
    """
    parts = [(sampling, sampling_df), (between, between_df)]
    return math.sqrt(sum(v * student_quantile(df, 0.975) ** 2 for v, df in parts if df > 0))


def smallest_detectable(
    sampling_sd: float, num_sample_seeds: int, finetune_sd: float, num_finetune_seeds: int
) -> float:
    """Return the difference that the 95% interval of a table excludes with 80% probability.

    `sampling_sd`: standard deviation of one paired difference by its bootstrap of 200 replicates;
    `finetune_sd`: between finetuning seeds, unused with one seed, of which the interval does not
    speak. Each part is the noncentrality of Student's t at that power.
    """
    from scipy.special import nctdtrinc

    parts = [
        (sampling_sd**2 / num_sample_seeds, 199),
        (finetune_sd**2 / num_finetune_seeds, num_finetune_seeds - 1),
    ]
    factors = [(v, nctdtrinc(df, 0.2, student_quantile(df, 0.975))) for v, df in parts if df > 0]
    return math.sqrt(sum(variance * factor**2 for variance, factor in factors))
