"""Durations, sizes and numbers as text."""

import math

SIZES = ("B", "kB", "MB", "GB", "TB")  # each 1000 times the one before


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit: 12 s, 7.5 min, 2.5 h, 12 d."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.2g} min"
    return f"{seconds / 3600:.2g} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"


def size_text(num_bytes: float) -> str:
    """Return a number of bytes in a suitable unit, with three digits: 12.5 kB, 552 MB."""
    for unit in SIZES[:-1]:
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} {SIZES[-1]}"


def digits_for(value: float) -> int:
    """Return the number of decimals that show four significant digits of values of this size.

    At least two for values from 1 on, and five for smaller ones, so that a column has one number of
    decimals where possible.
    """
    if abs(value) >= 1:
        return 2
    return max(5, 3 - math.floor(math.log10(abs(value)))) if value else 5
