"""Times and sizes as they are written: in the unit that fits, with two or three digits."""

import pytest

from deme.system import duration, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (12.4, "12 s"), (99, "99 s"), (100, "1.7 min"), (300, "5 min"), (450, "7.5 min"),
     (5400, "90 min"), (9000, "2.5 h"), (100_000, "28 h"), (864_000, "10 d")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (999.7, "1 kB"), (1000, "1 kB"), (12_540, "12.5 kB"),
     (999_600, "1 MB"), (552e6, "552 MB"), (43e9, "43 GB"), (5e15, "5,000.0 TB")],
)  # fmt: skip
def test_sizes(num_bytes, text):
    assert size_text(num_bytes) == text
