"""The runs of a folder as rows of a table."""

from collections.abc import Iterator
from pathlib import Path

from deme.runs import Frozen, Metrics, is_run, read_status
from deme.system import MissingInput, exists, read_json, read_yaml


def list_runs(folder: str | Path = "runs", **cell: object) -> list[dict[str, object]]:
    """Return a row for every run below a folder, ready for pandas.DataFrame.

    Columns: suite, stage, path, state (done, running, preempted, failed), seconds, each label of
    the cell (method, seed, sample_seed, ...) and each metric of an evaluation. `cell`: labels, or
    stage, suite or state, that the rows must have. Raises MissingInput for no folder, WorkFailed
    for damaged files.

    >>> import pandas
    >>> pandas.DataFrame(deme.list_runs(stage="evaluate"))
    """
    if not Path(folder).is_dir():
        raise MissingInput(f"there is no folder {folder} with runs")
    rows = [_row(place) for place in _runs(Path(folder))]
    return [row for row in rows if all(row.get(key) == value for key, value in cell.items())]


def _runs(folder: Path) -> Iterator[Path]:
    """Yield the run directories <folder>/<suite>/<stage>/<run>, or those of one suite, in order."""
    for depth in ("*/*", "*/*/*"):
        yield from (place for place in sorted(folder.glob(depth)) if is_run(place))


def _row(run: Path) -> dict[str, object]:
    status = read_status(run)
    file = run / "config.yaml"
    cell = read_yaml(file, Frozen).get("cell", {}) if exists(file) else {}
    row: dict[str, object] = {
        "suite": run.parent.parent.name,
        "stage": run.parent.name,
        "path": run,
        "state": status.get("state"),
        "seconds": status.get("seconds"),
        **{key: value for key, value in cell.items() if key != "suite"},
    }
    metrics = run / "metrics.json"
    if exists(metrics):
        found = read_json(metrics, Metrics)["metrics"]
        row |= {name: of["value"] for name, of in found.items()}
    return row
