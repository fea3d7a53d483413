"""Figures for `deme analyze`: one file and one option file each.

A figure is a function that takes by name what it needs of `model`, `data` and `extractors`
(functions that load them), `cache` (a folder) and `run` (a run directory), and the keys of its
option file.
"""

from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Analysis:
    """A picture, and the numbers behind it as the lines of a table, titles first."""

    figure: Figure
    table: list[list[str]] = field(default_factory=list)
