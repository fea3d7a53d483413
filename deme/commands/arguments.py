"""Arguments of commands: places, key=value, and the names of files to write."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from deme.system import BadConfig, did_you_mean


def split_args(args: Sequence[str], allowed: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without "=", and the others by key. Raises BadConfig for other keys."""
    given = dict(arg.split("=", 1) for arg in args if "=" in arg)
    for key in given.keys() - set(allowed):
        names = ", ".join(f"{name}=" for name in allowed)
        raise BadConfig(f"unknown option {key!r}; {did_you_mean(key, allowed)}allowed: {names}")
    return [arg for arg in args if "=" not in arg], given


def positive_number(name: str, text: str) -> float | None:
    """Return a number, or None for 0, which stands for an option that is not given."""
    try:
        value = float(text) if math.isfinite(float(text)) else -1
    except ValueError:
        value = -1
    if value < 0:
        raise BadConfig(f"{name} must be a positive number, got {text!r}")
    return value or None


def output_file(name: str, suffix: str) -> Path:
    """Return the path of a file to write. Raises BadConfig for another suffix."""
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise BadConfig(f"out must name a {suffix} file, got {path}")
    return path
