import pytest
import torch

from deme.diffusion import TimestepRange, uniform
from deme.diffusion.timesteps import ProbabilisticSampler, RangeSampler


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 4096])
def test_an_expert_without_global_sampling_never_leaves_its_range(n, antithetic):
    for r in uniform(7, 1000):
        t = RangeSampler(r, 1000, antithetic)(n, generator())
        assert t.shape == (n,)
        assert t.dtype == torch.long
        assert r.low <= int(t.min())
        assert int(t.max()) < r.high


def test_every_timestep_of_the_range_occurs():
    t = RangeSampler(TimestepRange(10, 20), 1000)(2000, generator())
    assert t.unique().tolist() == list(range(10, 20))


def test_antithetic_timesteps_mirror_each_other_within_the_range():
    t = RangeSampler(TimestepRange(250, 500), 1000)(16, generator())
    assert (t[:7] + t[9:] == 749).all()  # 9 drawn, the first 7 mirrored


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("num_ranges", "p"), [(4, 0.3), (8, 0.3), (4, 0.0), (4, 1.0), (2, 0.7)])
def test_share_inside_the_range_is_one_minus_p_plus_p_over_n(
    num_ranges, p, antithetic, granularity
):
    inside = uniform(num_ranges, 1000)[1]
    sampler = ProbabilisticSampler(inside, 1000, p, granularity, antithetic)
    draws = generator()
    batches = [sampler(32, draws) for _ in range(3000)]
    t = torch.cat(batches)
    share = ((t >= inside.low) & (t < inside.high)).double().mean()
    expected = (1 - p) + p / num_ranges
    # a batch-level coin makes the batch the unit of chance
    spread = (expected * (1 - expected) / (3000 if granularity == "batch" else 3000 * 16)) ** 0.5
    assert abs(share - expected) <= 4.5 * spread
    assert int(t.min()) >= 0
    assert int(t.max()) < 1000


def test_a_pair_mirrors_within_its_own_interval():
    inside = TimestepRange(0, 250)
    t = ProbabilisticSampler(inside, 1000, 0.5)(1000, generator())
    drawn, mirrored = t[:499], t[501:]
    sums = (drawn + mirrored).unique().tolist()
    assert sums == [249, 999]  # low + high - 1 of the range, and of [0, T)


def test_a_batch_coin_decides_for_the_whole_batch():
    inside = TimestepRange(0, 100)
    sampler = ProbabilisticSampler(inside, 1000, 0.5, "batch")
    draws = generator()
    largest = torch.stack([sampler(256, draws).max() for _ in range(200)])
    assert ((largest < 100) | (largest > 900)).all()
    assert 60 < int((largest < 100).sum()) < 140


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"probability": 30}, "0.3 means 30%"),
        ({"probability": -0.1}, "0, 1"),
        ({"granularity": "pixel"}, "sample, batch"),
    ],
)
def test_impossible_settings_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        ProbabilisticSampler(TimestepRange(0, 250), 1000, **arguments)


def test_a_range_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="reaches beyond"):
        RangeSampler(TimestepRange(900, 1100), 1000)
