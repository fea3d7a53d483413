"""Arguments of commands: places, key=value, and the names of files to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from deme.runs import build
from deme.system import BadConfig

T = TypeVar("T")


def split_args(args: Sequence[str], kind: type[T], what: str, usage: str) -> tuple[str, T]:
    """Return the only argument without "=", which names `what`, and the others as settings.

    Raises BadConfig.
    """
    places = [arg for arg in args if "=" not in arg]
    if len(places) != 1:
        raise BadConfig(f"one {what} is needed, got {len(places)}\ntype: {usage}")
    given = dict(arg.split("=", 1) for arg in args if "=" in arg)
    return places[0], build(kind, given, texts=True)


def output_file(name: str, suffix: str) -> Path:
    """Return the path of a file to write. Raises BadConfig for another suffix."""
    path = Path(name)
    if path.suffix.lower() != suffix:
        raise BadConfig(f"out must name a {suffix} file, got {path}")
    return path
