"""How numbers are written in tables."""


def digits_for(value: float) -> int:
    """Return how many decimals show four significant digits of a value like those in the column."""
    return 2 if abs(value) >= 1 else 5
