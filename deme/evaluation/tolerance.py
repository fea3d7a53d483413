"""Whether numbers out of a JSON file are those that were worked out again."""

import math
from collections.abc import Sequence
from itertools import repeat
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def near(one: float, other: Any, tolerance: float) -> bool:
    """Whether `other` is a number no further from `one` than that, relatively where it is large."""
    return is_number(other) and abs(one - other) <= tolerance * max(1.0, abs(one))


def agree(expected: Sequence[float], said: Any) -> bool:
    """Whether a list of numbers is the expected one, but for the order in which they were summed."""
    return (
        isinstance(said, list)
        and len(said) == len(expected)
        and all(map(near, expected, said, repeat(1e-9)))
    )
