"""`deme ls`: list runs with their states, the settings that differ, and their main numbers.

Filters are <key>=<value> for a state, a stage, a label or a setting.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from deme.commands.arguments import places_and_values
from deme.commands.places import runs_place
from deme.report.escape import csv_text
from deme.report.run_settings import Settings, differing, find_key, in_order
from deme.report.run_table import (
    Column,
    columns_of,
    counts,
    order_by,
    record_of,
    render,
    reordered,
)
from deme.report.terminal import terminal_width
from deme.runs import build
from deme.runs.labels import value_text
from deme.runs.listing import STATES, ListedRun, list_runs
from deme.runs.settings.listing import ListOptions
from deme.system import BadConfig, did_you_mean, print_result

OPTIONS = ("runs", "sort", "json", "csv")
ABOUT = ("state", "stage", "suite", "name")  # filters other than settings and labels
USAGE = "deme ls digits state=done sort=loss"


def run(args: Sequence[str]) -> None:
    """Print the table of the runs that pass all filters. Raises BadConfig, MissingInput."""
    places, given = places_and_values(args)
    options = build(ListOptions, {key: given[key] for key in given if key in OPTIONS}, texts=True)
    place = runs_place(places, options.runs, USAGE)
    runs = list_runs(place)
    settings = Settings(runs)
    for key in (key for key in given if key not in OPTIONS):
        runs = filtered(runs, settings, key, given[key])
    keys = differing(runs, settings)
    runs = in_order(runs, settings, keys)
    columns = columns_of(runs, settings, keys)
    if options.sort is not None:
        order = order_by(_column(columns, options.sort), options.sort.startswith("-"))
        runs = [runs[index] for index in order]
        columns = [reordered(column, order) for column in columns]
    if options.json:
        print(json.dumps([record_of(run, settings) for run in runs], indent=2))
    elif options.csv:
        sys.stdout.write(_csv(runs, columns))
    else:
        _print_table(place, runs, columns)


def filtered(runs: list[ListedRun], settings: Settings, key: str, wanted: str) -> list[ListedRun]:
    """Return the runs whose state, stage, label or setting `key` matches one of the wanted values.

    `wanted`: values separated by commas, with the wildcards * and ?. Raises BadConfig for an
    unknown key.
    """
    if key in ABOUT:
        if key == "state" and not {*wanted.split(",")} <= {*STATES}:
            raise BadConfig(f"unknown state {wanted}; allowed: {', '.join(STATES)}")
        return [run for run in runs if _is_wanted(getattr(run, key), wanted)]
    known = {name for run in runs for name in (*settings.of(run), *run.labels)}
    keys = find_key(key, sorted(known))
    if not keys and runs:
        near = did_you_mean(key, [*(name.rpartition(".")[2] for name in known), *ABOUT])
        raise BadConfig(
            f"no run here has a setting {key}\n{near}type: deme show <run>, for what one has"
        )
    return [
        run
        for run in runs
        if any(
            _is_wanted(values[name], wanted)
            for values in ({**run.labels, **settings.of(run)},)
            for name in keys
            if name in values
        )
    ]


def _is_wanted(value: object, wanted: str) -> bool:
    """Whether a value matches one of several separated by commas; 5e-4 matches 0.0005."""
    texts = {str(value), value_text(value)}
    for pattern in wanted.split(","):
        if any(fnmatchcase(text, pattern) for text in texts):
            return True
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                if float(pattern) == value:
                    return True
            except ValueError:
                continue
    return False


def _column(columns: Sequence[Column], sort: str) -> Column:
    """Return the column that `sort=<name>` or `sort=-<name>` means. Raises BadConfig."""
    typed, names = sort.removeprefix("-"), [column.key for column in columns]
    found = find_key(typed, names)
    if len(found) != 1:
        near = did_you_mean(typed, names)
        raise BadConfig(f"no column {typed}; {near}allowed: {', '.join(names)}")
    return columns[names.index(found[0])]


def _csv(runs: Sequence[ListedRun], columns: Sequence[Column]) -> str:
    """Return the runs as CSV, one line each; numbers are not rounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(column.key for column in columns)])
    for index, run in enumerate(runs):
        values = [column.values[index] for column in columns]
        writer.writerow(
            [
                csv_text(run.path),
                *(
                    value if isinstance(value, (int, float)) else csv_text(_plain(value))
                    for value in values
                ),
            ]
        )
    return text.getvalue()


def _plain(value: object) -> str:
    return "" if value is None else value_text(value)


def _print_table(place: Path, runs: Sequence[ListedRun], columns: Sequence[Column]) -> None:
    if not runs:
        print_result(f"{place}: no runs")
        return
    states = Counter(run.state for run in runs)
    stages, suites = {run.stage for run in runs}, {run.suite for run in runs}
    what = f" of stage {next(iter(stages))}" if len(stages) == 1 else ""
    which = f", suite {next(iter(suites))}" if len(suites) == 1 else ""
    number = f"{len(runs):,} run{'s' * (len(runs) > 1)}"
    print_result(f"{place}: {number}{what}{which} ({counts(states)})")
    print_result(render(columns, terminal_width()))
