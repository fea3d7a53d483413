"""The outcome of a table in one sentence per base."""

from collections.abc import Sequence

from deme.report.rows import Row
from deme.report.tables import difference_cells
from deme.runs import Suite
from deme.system import digits_for


def verdicts(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each part of the table, about its best row in the first metric."""
    settings = suite.settings
    found = []
    for base in settings.starts:
        part = [row for row in rows if row.base == base]
        prefix = f"From {settings.label_of(base)}: " if settings.bases else ""
        found.append(prefix + _verdict(part, settings.metrics, settings.baseline))
    return found


def best_row(rows: Sequence[Row], metrics: Sequence[str]) -> Row | None:
    """Return the best row in the first metric that has differences to the baseline."""
    metric, candidates = _compared(rows, metrics)
    return _best(candidates, metric) if candidates else None


def _compared(rows: Sequence[Row], metrics: Sequence[str]) -> tuple[str, list[Row]]:
    """Return the first metric that has differences to the baseline, and the rows that have one."""
    for metric in metrics:
        found = [row for row in rows if metric in row.numbers and row.numbers[metric].difference]
        if found:
            return metric, found
    return "", []


def _best(rows: Sequence[Row], metric: str) -> Row:
    higher = rows[0].numbers[metric].about["better"] == "higher"
    return (max if higher else min)(rows, key=lambda row: row.numbers[metric].mean)


def _verdict(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> str:
    metric, candidates = _compared(rows, metrics)
    if not candidates:
        return "Nothing is compared yet."
    label = next((row.label for row in rows if row.name == baseline), baseline)
    best = _best(candidates, metric)
    number = best.numbers[metric]
    text, _ = difference_cells(number.difference, digits_for(number.mean))
    num_better, num_worse = (
        sum(_is(row, metric, verdict) for row in candidates) for verdict in ("better", "worse")
    )
    if not num_better:
        return (
            f"No row is better in {metric} than {label} by its 95% interval. The best of "
            f"{len(candidates)} rows is {best.label}, {text}."
        )
    others = (
        f" {num_better} of {len(candidates)} rows are better by their 95% intervals, "
        f"{num_worse} worse. The interval of the best ignores that it was chosen among several."
    )
    return f"Best in {metric}: {best.label}, {text} against {label}." + (
        others if len(candidates) > 1 else ""
    )


def _is(row: Row, metric: str, verdict: str) -> bool:
    difference = row.numbers[metric].difference
    return difference is not None and difference.verdict == verdict
