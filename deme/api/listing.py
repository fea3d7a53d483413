"""List the runs of a folder as rows of a table."""

import contextlib
from pathlib import Path

from deme.runs import listing, metrics_of
from deme.system import DemeError, MissingInput, expanded


def list_runs(folder: str | Path = "runs", **cell: object) -> list[dict[str, object]]:
    """Return one row per run below a folder, ready for pandas.DataFrame.

    Columns: suite, stage, path, state, seconds, each label (method, seed, sample_seed, ...) and
    each metric of an evaluation. The states are those of `deme ls`: done, running, stopped, failed,
    damaged, empty. `cell` selects rows: values of labels, stage, suite or state. Raises
    MissingInput for a folder that does not exist.

    >>> import pandas
    >>> pandas.DataFrame(deme.list_runs(stage="evaluate"))
    """
    place = expanded(str(folder))
    if not place.is_dir():
        raise MissingInput(f"there is no folder {folder} with runs")
    rows = [_row(run) for run in listing.list_runs(place)]
    return [row for row in rows if all(row.get(key) == value for key, value in cell.items())]


def _row(run: listing.ListedRun) -> dict[str, object]:
    row: dict[str, object] = {
        "suite": run.suite,
        "stage": run.stage,
        "path": run.path,
        "state": run.state,
        "seconds": run.status.get("seconds"),
        **{name: value for name, value in run.labels.items() if name != "suite"},
    }
    with contextlib.suppress(DemeError):  # a damaged run has no numbers
        row |= {name: metric["value"] for name, metric in metrics_of(run.path).items()}
    return row
