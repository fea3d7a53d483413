import pytest

from deme.diffusion import TimestepRange, check_partition, uniform


@pytest.mark.parametrize("num_ranges", [1, 2, 3, 4, 7, 8, 999, 1000])
def test_partition_covers_every_timestep_once(num_ranges):
    ranges = uniform(num_ranges, 1000)
    assert len(ranges) == num_ranges
    covered = [t for r in ranges for t in range(r.low, r.high)]
    assert covered == list(range(1000))


def test_four_ranges_are_the_papers():
    assert [str(r) for r in uniform(4, 1000)] == [
        "[0, 250)",
        "[250, 500)",
        "[500, 750)",
        "[750, 1000)",
    ]


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        ([(0, 250), (300, 1000)], "leave a hole at t = 250"),
        ([(0, 250), (200, 1000)], "overlap at t = 200"),
        ([(0, 250), (250, 900)], "end at 900"),
        ([], "end at 0"),
    ],
)
def test_what_is_no_partition_is_refused(ranges, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_partition([TimestepRange(*r) for r in ranges], 1000)


@pytest.mark.parametrize("num_ranges", [0, -1, 1001])
def test_impossible_numbers_of_ranges_are_refused(num_ranges):
    with pytest.raises(ValueError, match=r"num_ranges must lie in 1\.\.1000"):
        uniform(num_ranges, 1000)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (7, 3), (-1, 4)])
def test_empty_or_negative_ranges_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        TimestepRange(low, high)
