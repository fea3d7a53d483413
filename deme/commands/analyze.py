"""`deme analyze`: draw a figure, and write and print the numbers behind it."""

import csv
import io
from pathlib import Path
from typing import Any

from deme.runs.run import say
from deme.runs.settings.base import build
from deme.runs.settings.groups import MetricsSettings, PathsSettings
from deme.system import files
from deme.system.errors import BadConfig


def run(config: dict[str, Any]) -> Path:
    """Draw the figure, write its numbers beside it as CSV, and return the picture's path."""
    out = Path(str(config["out"]))
    if out.suffix.lower() != ".png":
        raise BadConfig(f"out must name a .png file, got {config['out']}")

    from rich.console import Console
    from rich.table import Table

    from deme.builders.data import load_data
    from deme.builders.metrics import load_extractors
    from deme.report.figures import png
    from deme.runs.config import accepted_arguments, instantiate, instantiate_with
    from deme.system.paths import cache_folder

    given = config["run"]
    if given is not None and not isinstance(given, str):
        raise BadConfig(f"run must be the directory of a run, got {given!r}")
    if given is not None and "run" not in accepted_arguments(config["figure"]):
        raise BadConfig(
            f"figure={config['figure']['_target_'].split('.')[-1]} draws no run; leave out run="
        )
    paths = build(PathsSettings, config["paths"])
    analysis = instantiate_with(
        config["figure"],
        model=lambda: instantiate(config["model"]),
        run=given,
        data=lambda: load_data(config["data"], paths),
        extractors=lambda: load_extractors(build(MetricsSettings, config["metrics"])),
        cache=cache_folder(paths),
    )
    files.write_bytes(out, png(analysis.figure))
    written = str(out)
    if analysis.table:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(analysis.table)
        files.write_text(out.with_suffix(".csv"), text.getvalue())
        written += f" and {out.with_suffix('.csv')}"
        screen = Table(*analysis.table[0])
        for line in analysis.table[1:]:
            screen.add_row(*line)
        Console(width=max(Console().width, 120)).print(screen)
    say(f"drew {written}")
    return out
