"""`deme analyze`: draw a figure, and write and print the numbers behind it."""

import csv
import io
from pathlib import Path

from deme.commands.arguments import output_file
from deme.runs import (
    AnalyzeSettings,
    accepted_arguments,
    build,
    check_options,
    instantiate,
    instantiate_with,
)
from deme.system import BadConfig, cache_folder, files, print_result


def run(config: dict[str, object]) -> Path:
    """Draw the figure, write its numbers beside it as CSV, and return the picture's path."""
    settings = build(AnalyzeSettings, config)
    out = output_file(settings.out, ".png")

    from deme.builders import load_data, load_extractors
    from deme.report.figures import png
    from deme.report.terminal import text_table

    if settings.run is not None and "run" not in accepted_arguments(settings.figure):
        name = str(settings.figure["_target_"]).split(".")[-1]
        raise BadConfig(f"figure={name} shows no run\ntype: the same command without run=")
    check_options(settings)
    analysis = instantiate_with(
        settings.figure,
        model=lambda: instantiate(settings.model),
        run=settings.run,
        data=lambda: load_data(settings.data, settings.paths),
        extractors=lambda: load_extractors(settings.metrics),
        cache=cache_folder(settings.paths),
    )
    files.write_bytes(out, png(analysis.figure))
    written = str(out)
    if analysis.table:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(analysis.table)
        files.write_text(out.with_suffix(".csv"), text.getvalue())
        written += f" and {out.with_suffix('.csv')}"
        columns, *lines = analysis.table
        print_result(text_table(None, columns, lines, num_left=len(columns)))
    print_result(f"wrote {written}")
    return out
