"""Numbers of a table: how they are written, and paired comparisons with their intervals."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from deme.system import JsonObject


class RunSeeds(NamedTuple):
    """The seeds of one evaluation; None for a model without finetuning, or not pretrained here."""

    seed: int | None
    sample_seed: int
    pretrain_seed: int | None = None

    def is_paired(self, other: "RunSeeds") -> bool:
        """Whether two evaluations are paired: the seeds that both have are equal."""
        return self.sample_seed == other.sample_seed and all(
            one == two or None in (one, two)
            for one, two in ((self.seed, other.seed), (self.pretrain_seed, other.pretrain_seed))
        )


# a RunSeeds, or its values without the last
SeedsT = TypeVar("SeedsT", bound=tuple[int | None, ...])


def student_quantile(df: float, probability: float) -> float:
    """Return the quantile of Student's t distribution with `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a paired difference; None where a single seed cannot show them.

    `sampling`: of one difference, by the bootstrap, or of a mean over images. `finetuning`: between
    the finetuning seeds of a pretraining seed. `pretraining`: between pretraining seeds, beyond
    what the spread between finetuning seeds explains; with one finetuning seed it includes that
    spread.
    """

    sampling: float
    finetuning: float | None = None
    pretraining: float | None = None


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline: mean over seeds, 95% interval and what it was taken over."""

    value: float
    low: float
    high: float
    num_finetune_seeds: int  # 0: nothing was finetuned
    higher_is_better: bool = False
    num_pretrain_seeds: int = 0  # 0: the base was not pretrained here
    spread: Spread | None = None

    @property
    def of_one_model(self) -> bool:
        """Whether the interval speaks of the weights of one finetuning seed alone."""
        return self.num_finetune_seeds == 1 and self.num_pretrain_seeds < 2

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
    values: Mapping[SeedsT, float],
    base: Mapping[SeedsT, float],
    replicates: Mapping[SeedsT, Sequence[float]],
    base_replicates: Mapping[SeedsT, Sequence[float]],
    num_units: int,
) -> Difference | None:
    """Return row minus baseline over common sampling seeds, within each pretraining seed.

    Either may be of a model without finetuning. None if they have no common seed or are computed
    from one image. A cell is (finetuning seed, sampling seed) or a RunSeeds.

    The sampling variance of the mean is n / (n - 1) times that of its paired bootstrap replicates,
    which resample n = `num_units` images or prompts. Added to it are the variance between the means
    of finetuning seeds divided by their number, and that between the means of pretraining seeds
    divided by their number (interval_half_width). With a single seed its variance is unknown: the
    interval is conditional on that seed.
    """
    pairs = [
        (cell, other)
        for cell in values
        for other in base
        if RunSeeds(*cell).is_paired(RunSeeds(*other))
    ]
    if not pairs or num_units < 2:
        return None
    found = {
        (RunSeeds(*cell), RunSeeds(*other)): values[cell] - base[other] for cell, other in pairs
    }
    value = float(np.mean([*found.values()]))
    of_pairs = np.array(
        [np.subtract(replicates[cell], base_replicates[other]) for cell, other in pairs]
    )
    boot, bessel = of_pairs.mean(axis=0), num_units / (num_units - 1)
    sampling = float(boot.var(ddof=1)) * bessel
    finetuned = _means((_seeds(*both)[0], one) for both, one in found.items())
    pretrained = _means((_seeds(*both)[1], one) for both, one in found.items())
    half = interval_half_width(
        sampling,
        min(len(boot), num_units) - 1,
        _variance(finetuned) / len(finetuned),
        len(finetuned) - 1,
        _variance(pretrained) / len(pretrained),
        len(pretrained) - 1,
    )
    return Difference(
        value,
        value - half,
        value + half,
        len(finetuned.keys() - {None}),
        num_pretrain_seeds=len(pretrained.keys() - {None}),
        spread=_spread(found, math.sqrt(float(of_pairs.var(axis=1, ddof=1).mean()) * bessel)),
    )


def _seeds(cell: RunSeeds, other: RunSeeds) -> tuple[int | None, int | None]:
    """Return the finetuning and the pretraining seed of a difference, of whichever side has one."""
    return (
        other.seed if cell.seed is None else cell.seed,
        other.pretrain_seed if cell.pretrain_seed is None else cell.pretrain_seed,
    )


def _means(values: Iterable[tuple[int | None, float]]) -> dict[int | None, float]:
    """Return the mean of the values of each seed."""
    groups = defaultdict(list)
    for seed, value in values:
        groups[seed].append(value)
    return {seed: float(np.mean(groups[seed])) for seed in sorted(groups, key=str)}


def _variance(means: Mapping[int | None, float]) -> float:
    """Return the variance between means, 0 for one, of which nothing is known."""
    return float(np.var([*means.values()], ddof=1)) if len(means) > 1 else 0.0


def _spread(found: Mapping[tuple[RunSeeds, RunSeeds], float], sampling: float) -> Spread:
    """Return the standard deviations of the differences `found`, given by their cells."""
    by_base = defaultdict(list)
    for both, one in found.items():
        seed, pretrain_seed = _seeds(*both)
        by_base[pretrain_seed].append((seed, one))
    means = [_means(group) for group in by_base.values()]
    df = sum(len(group) - 1 for group in means)
    within = sum(_variance(group) * (len(group) - 1) for group in means) / df if df else 0.0
    between = _variance({n: float(np.mean([*m.values()])) for n, m in enumerate(means)})
    beyond = between - within * float(np.mean([1 / len(group) for group in means]))
    return Spread(
        sampling,
        math.sqrt(within) if df else None,
        math.sqrt(max(0.0, beyond)) if len(means) > 1 else None,
    )


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
        return Difference(value, value, value, 1, spread=Spread(error))
    t = student_quantile(len(x) - 1, 0.975)
    skewness = float(((x - value) ** 3).mean() / x.std() ** 3) / math.sqrt(len(x))
    low, high = (value - error * _hall(limit, skewness) for limit in (t, -t))
    low, high = min(low, value - error * t), max(high, value + error * t)
    return Difference(value, low, high, 1, spread=Spread(error))


def _hall(t: float, skewness: float) -> float:
    """Return what t must be for its transformation, which has no skewness, to be `t`.

    `skewness` is that of the mean.
    """
    if abs(skewness) < 1e-9:
        return t
    return 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)


def interval_half_width(
    sampling: float,
    sampling_df: int,
    finetuning: float,
    finetuning_df: int,
    pretraining: float = 0.0,
    pretraining_df: int = 0,
) -> float:
    """Return the half width of a 95% interval for a mean with up to three variances.

    Each variance of the mean comes with its degrees of freedom and its own quantile of Student's
    t, squared and summed: t(sampling_df)^2 sampling + t(finetuning_df)^2 finetuning + ... One t
    with Welch-Satterthwaite's degrees of freedom covers 88% at two finetuning seeds that agree by
    chance; this covers 94.6% to 99% from two seeds on (tests/semantics/test_coverage.py).

    The variance between the means of P pretraining seeds / P contains what F finetuning seeds that
    are independent on every base add, their variance / (P F), so alone it would be enough. But a
    finetuning seed has the same noise and order of images on every base: what that does does not
    average out over bases, and shows between the means of finetuning seeds alone. Therefore both
    are there. That widens the interval by 3% to 20% at three finetuning seeds and by up to a factor
    of 2 at two, where seeds of pretraining do not differ. Taking the smaller variance out of the
    larger one instead covers 88% at two pretraining seeds.
    """
    parts = [
        (sampling, sampling_df),
        (finetuning, finetuning_df),
        (pretraining, pretraining_df),
    ]
    return math.sqrt(sum(v * student_quantile(df, 0.975) ** 2 for v, df in parts if df > 0))


def smallest_detectable(
    sampling_sd: float,
    num_sample_seeds: int,
    finetune_sd: float,
    num_finetune_seeds: int,
    pretrain_sd: float = 0.0,
    num_pretrain_seeds: int = 1,
) -> float:
    """Return the difference that the 95% interval of a table excludes with 80% probability.

    The standard deviations are those of Spread, `sampling_sd` by 200 bootstrap replicates. Of what
    there is one seed of, the interval does not speak, and its spread is not used. Each part is the
    noncentrality of Student's t at that power.
    """
    from scipy.special import nctdtrinc

    finetuning = finetune_sd**2 / num_finetune_seeds
    parts = [
        (sampling_sd**2 / num_sample_seeds, 199),
        (finetuning / num_pretrain_seeds, num_finetune_seeds - 1),
        ((pretrain_sd**2 + finetuning) / num_pretrain_seeds, num_pretrain_seeds - 1),
    ]
    factors = [(v, nctdtrinc(df, 0.2, student_quantile(df, 0.975))) for v, df in parts if df > 0]
    return math.sqrt(sum(variance * factor**2 for variance, factor in factors))
