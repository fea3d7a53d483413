"""Differences between any two rows of a table, from a suite's runs or from a written table."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from deme.report.rows import SuiteResults
from deme.report.statistics import Difference
from deme.runs import Suite, row_and_base, row_at_base
from deme.system import BadConfig, WorkFailed, read_text

Pair = tuple[str, str]  # a row, and the row that is subtracted from it
COLUMNS = ("row", "metric", "mean", "difference", "low", "high", "verdict", "num_finetune_seeds")


class DifferenceTable(Protocol):
    """The rows of a table, and how they differ. `intervals`: what the intervals are of."""

    intervals: str

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics without parts."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What a figure calls a row, without its base."""

    @property
    def means(self) -> Mapping[str, Mapping[str, float]]:
        """Row, or <row>@<base> in a table of several bases -> metric -> mean."""

    def differences(
        self, pairs: Sequence[Pair], metrics: Sequence[str]
    ) -> list[dict[str, Difference | None]]:
        """Return a difference per pair and metric, None where one is not measured."""


def open_table(place: Path, runs: Path) -> DifferenceTable:
    """Return the table of a suite, whose runs are below `runs`, or of a .csv of `deme table`."""
    if place.suffix == ".csv":
        return CsvTable(place)
    return SuiteTable(Suite.read(place, runs))


class SuiteTable:
    """Differences that are paired by pretraining, finetuning and sampling seeds."""

    def __init__(self, suite: Suite) -> None:
        self._results, self.metrics = SuiteResults(suite), suite.settings.metrics
        several = suite.settings.pretrain_seeds is not None
        self.intervals = "of paired differences, over images" + (
            ", pretraining and finetuning seeds" if several else " and finetuning seeds"
        )
        without_base = {row.name for row in suite.settings.rows if row.bases == ()}
        self.means: dict[str, dict[str, float]] = {}
        self.labels: dict[str, str] = {}
        for row in self._results.rows():
            base = None if row.name in without_base else row.base
            name = row_at_base(row.name, base)
            self.means[name] = {metric: number.mean for metric, number in row.numbers.items()}
            self.labels[name] = row.label

    def differences(
        self, pairs: Sequence[Pair], metrics: Sequence[str]
    ) -> list[dict[str, Difference | None]]:
        """Return the paired differences."""
        return self._results.differences(pairs, metrics)


class CsvTable:
    """Differences by a written table, which has those to its baseline.

    The interval of two rows is that of independent differences, which is wider than a paired one
    where both rows share seeds. Raises WorkFailed for a file that is no such table.
    """

    intervals = "from those to the table's baseline as if they were independent"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.means: dict[str, dict[str, float]] = {}
        self._to_baseline: dict[Pair, Difference] = {}  # row and metric
        reader = csv.DictReader(io.StringIO(read_text(file)))
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise WorkFailed(
                f"{file} is not a table of deme: it has no column {missing[0]}\n"
                "type: figure.table=<suite, or .csv of deme table>"
            )
        self._higher: set[str] = set()  # metrics of which higher is better
        for number, line in enumerate(reader, start=2):
            try:
                self._add(line)
            except (TypeError, ValueError) as error:
                raise WorkFailed(f"{file}, line {number}, is damaged: {error}") from error
        found = dict.fromkeys(name for row in self.means.values() for name in row)
        self.metrics = [name for name in found if "/" not in name]
        self.labels = {row: row_and_base(row)[0] for row in self.means}

    def _add(self, line: Mapping[str, str]) -> None:
        row, metric = row_at_base(line["row"], line.get("base")), line["metric"]
        self.means.setdefault(row, {})[metric] = _number(line["mean"])
        if (difference := read_difference(line)) is not None:
            self._to_baseline[row, metric] = difference
            if difference.higher_is_better:
                self._higher.add(metric)

    def differences(
        self, pairs: Sequence[Pair], metrics: Sequence[str]
    ) -> list[dict[str, Difference | None]]:
        """Return differences with intervals that are at most too wide.

        Raises BadConfig for rows of two bases, each of which is compared with its own baseline.
        """
        for row, other in pairs:
            if row_and_base(row)[1] != row_and_base(other)[1]:
                raise BadConfig(
                    f"{self.file} has no difference of {row} to {other}, which is another base\n"
                    "type: figure.table=<the suite>"
                )
        return [
            {metric: self._difference(metric, row, other) for metric in metrics}
            for row, other in pairs
        ]

    def _difference(self, metric: str, row: str, other: str) -> Difference | None:
        if any(metric not in self.means[name] for name in (row, other)):
            return None
        value = self.means[row][metric] - self.means[other][metric]
        given = [self._to_baseline.get((name, metric)) for name in (row, other)]
        known = [one for one in given if one is not None]
        if not known:
            return None
        if len(known) == 1 and not math.isclose(abs(value), abs(known[0].value), rel_tol=1e-6):
            return None  # neither row is the baseline, and one has no difference to it
        half = math.hypot(*((one.high - one.low) / 2 for one in known))
        return Difference(
            value,
            value - half,
            value + half,
            min(one.num_finetune_seeds for one in known),
            metric in self._higher,
            min(one.num_pretrain_seeds for one in known),
        )


def read_difference(line: Mapping[str, str]) -> Difference | None:
    """Return the difference in a line of a table's CSV, None where there is none.

    Raises ValueError for what is not a finite number.
    """
    if not line["difference"]:
        return None
    value, low, high = (_number(line[name]) for name in ("difference", "low", "high"))
    higher = line["verdict"] == ("better" if value > 0 else "worse")
    seeds, bases = (int(line.get(f"num_{of}_seeds") or 0) for of in ("finetune", "pretrain"))
    return Difference(value, low, high, seeds, higher, bases)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a finite number is needed, got {text}")
    return value
