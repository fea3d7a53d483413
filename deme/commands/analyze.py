"""`deme analyze`: draw a figure, and write and print its numbers."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deme.commands.arguments import output_file
from deme.runs import (
    AnalyzeSettings,
    accepted_arguments,
    base_hash,
    build,
    check_options,
    instantiate_with,
)
from deme.system import BadConfig, expanded, files, locked, logger, print_result

if TYPE_CHECKING:
    from deme.analysis import Analysis, Study
    from deme.analysis.parts import Header


def run(config: dict[str, object]) -> Path:
    """Draw the figure, write its numbers next to it, and return the picture's path.

    It is written as PNG and SVG, its table as CSV, the numbers that it is drawn from as JSON. With
    `plan=true` print what it costs, and return the current folder.
    """
    settings = build(AnalyzeSettings, config)
    out = output_file(settings.out, ".png")
    _check_used(settings)
    check_options(settings)

    from deme.analysis import Study
    from deme.analysis.parts import check_numbers_file
    from deme.builders.figures import figure_identity, figure_inputs

    check_numbers_file(out.with_suffix(".json"))
    table = settings.figure.get("table")
    if isinstance(table, str) and out.with_suffix(".csv").resolve() == expanded(table).resolve():
        raise BadConfig(f"out={settings.out} would replace the table {table}\ntype: another out=")
    made = instantiate_with(settings.figure, **figure_inputs(settings))
    path = settings.model.get("path") if "model" in accepted_arguments(settings.figure) else None
    header: Header = {
        "figure": _name(settings),
        "identity": figure_identity(settings, config),
        "base": base_hash(settings.model, str(path)) if path is not None else None,
    }
    if not isinstance(made, Study):
        _write(out, made, header)
    elif settings.plan:
        print_result(_cost(made, settings))
        return Path()
    else:
        with locked(out.with_name(f".{out.name}.lock"), _wait, remove=True):
            _carry_out(made, settings, out, header)
    return out


def _wait(owner: str) -> None:
    logger.info("%s is making this figure; waiting", owner)


def _name(settings: AnalyzeSettings) -> str:
    return str(settings.figure["_target_"]).split(".")[-1]


def _check_used(settings: AnalyzeSettings) -> None:
    """Raise BadConfig for an input that the figure does not take."""
    given = {
        "run": settings.run,
        "experts": settings.inputs.experts,
        "models": settings.inputs.models,
    }
    for name, value in given.items():
        if value is not None and name not in accepted_arguments(settings.figure):
            key = name if name == "run" else f"inputs.{name}"
            raise BadConfig(
                f"figure={_name(settings)} does not use {key}\ntype: the same command without it"
            )
    directions = settings.figure.get("directions", "tasks")
    if settings.inputs.experts is not None and directions != "tasks":
        raise BadConfig(
            f"figure.directions={directions} does not use inputs.experts\n"
            "type: figure.directions=tasks, or the same command without the experts"
        )


def _cost(study: "Study[Any]", settings: AnalyzeSettings) -> str:
    from deme.builders.figures import seconds_per_pass

    passes = study.num_forward_passes
    minutes = passes * seconds_per_pass(study.model) / 60
    return (
        f"cost of figure={_name(settings)}: {passes:,} forward passes of one image, "
        f"about {minutes:.1f} minutes here (timed on one batch)"
    )


def _carry_out(study: "Study[Any]", settings: AnalyzeSettings, out: Path, header: "Header") -> None:
    """Measure what is not measured yet, and write the figure."""
    from deme.analysis.parts import PartFiles, saved_numbers, write_numbers
    from deme.report.style import style

    file, parts = out.with_suffix(".json"), PartFiles(out, header["identity"])
    numbers = saved_numbers(file, header["identity"], study.kind)
    if numbers is None:
        logger.info("%s", _cost(study, settings))
        write_numbers(file, header, study.measure(parts))
        numbers = saved_numbers(file, header["identity"], study.kind)
        assert numbers is not None
    else:
        logger.info("%s has these numbers: the figure is drawn again", file)
    parts.remove()
    with style():
        drawn = study.draw(numbers)
    _write(out, drawn, header)


def _write(out: Path, analysis: "Analysis", header: "Header") -> None:
    """Write the picture, and what there is of numbers and table; print the table."""
    from deme.analysis.parts import write_numbers
    from deme.report.figures import png, svg
    from deme.report.terminal import text_table

    written = [out, out.with_suffix(".svg")]
    if analysis.numbers is not None:
        write_numbers(out.with_suffix(".json"), header, analysis.numbers)
    files.write_bytes(written[0], png(analysis.figure))
    files.write_bytes(written[1], svg(analysis.figure))
    if analysis.table:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(analysis.table)
        written.append(out.with_suffix(".csv"))
        files.write_text(written[-1], text.getvalue())
        columns, *lines = analysis.table
        print_result(text_table(None, columns, lines, num_left=len(columns)))
    if out.with_suffix(".json").exists():
        written.append(out.with_suffix(".json"))
    print_result(f"wrote {', '.join(map(str, written))}")
