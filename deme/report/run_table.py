"""The table of runs that `deme ls` prints: settings that differ, and main numbers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rich.cells import cell_len

from deme.report.run_settings import LABELS, Settings, short_keys, text_of
from deme.report.terminal import aligned
from deme.runs.listing import ListedRun
from deme.runs.numbers import TRAINING_LOSS, Measured
from deme.system import digits_for, duration, single_line, size_text

GAP = 2  # characters between two columns
NARROWEST = 20  # characters of a name
MAX_ERROR = 60
# settings that change the scale of the training loss; runs that differ in them are not compared
OF_LOSS = {
    "accumulate", "balancing", "data", "expert", "loss_weight", "method", "model", "ranges",
    "timesteps", "weighting",
}  # fmt: skip
BEST = (
    "* best of its column (a training loss: best of its seed); to see whether evaluations differ "
    "by more than chance, type: deme compare <run> <run>"
)


@dataclass(frozen=True)
class Column:
    """A column of the table: its key and title, and the value and text of each run.

    If the columns do not fit, those with the highest `spare` are left out first; 0 means never.
    """

    key: str
    title: str
    values: Sequence[Any]
    texts: Sequence[str]
    spare: int = 0
    right: bool = False

    @cached_property
    def width(self) -> int:
        """The width on the terminal in characters."""
        return max(map(cell_len, (self.title, *self.texts)))


def columns_of(runs: Sequence[ListedRun], settings: Settings, keys: Sequence[str]) -> list[Column]:
    """Return the columns of a table of runs, in order.

    `keys`: the settings that differ between the runs.
    """
    now = time.time()
    found = [
        _column("name", "run", [run.name for run in runs]),
        Column("state", "state", [run.state for run in runs], [*map(_state, runs)]),
    ]
    suites, stages = [run.suite for run in runs], [run.stage for run in runs]
    found += [_column("suite", "suite", suites, 6)] if len({*suites}) > 1 else []
    found += [_column("stage", "stage", stages, 5)] if len({*stages}) > 1 else []
    found += setting_columns(runs, settings, keys)
    found += number_columns(runs, settings, keys)
    ages = [None if run.time is None else max(0.0, now - run.time) for run in runs]
    found.append(
        Column("age", "age", ages, ["" if age is None else duration(age) for age in ages], 9, True)
    )
    sizes = [run.num_bytes for run in runs]
    found.append(Column("disk", "disk", sizes, [*map(size_text, sizes)], 8, True))
    errors = [single_line(run.status.get("error", "").partition("\n")[0], 300) for run in runs]
    if any(errors):
        found.append(Column("error", "error", errors, [e[:MAX_ERROR] for e in errors], 7))
    return found


def _column(key: str, title: str, texts: Sequence[str], spare: int = 0) -> Column:
    return Column(key, title, texts, texts, spare)


def setting_columns(
    runs: Sequence[ListedRun], settings: Settings, keys: Sequence[str]
) -> list[Column]:
    """Return a column for each of these settings, which differ between runs of a stage."""
    titles = short_keys(keys)
    found = []
    for key in keys:
        values = [settings.of(run).get(key) for run in runs]
        texts = ["" if value is None else text_of(value) for value in values]
        is_number = all(isinstance(value, (int, float)) for value in values if value is not None)
        spare = 3 if key == "method" or key in LABELS else 2
        found.append(Column(key, titles[key], values, texts, spare, is_number))
    return found


def number_columns(
    runs: Sequence[ListedRun], settings: Settings, keys: Sequence[str]
) -> list[Column]:
    """Return a column for each main number, with its `n` and an asterisk at the best value.

    `keys`: the settings that differ between the runs.
    """
    loss_differs = {key.partition(".")[0] for key in keys} & OF_LOSS
    found = []
    for name in dict.fromkeys(name for run in runs for name in run.numbers):
        all_of = [run.numbers.get(name) for run in runs]
        counts = {one.get("n") for one in all_of if one is not None}
        is_loss = name == TRAINING_LOSS
        common = len(counts) == 1 and not is_loss and None not in counts
        title = f"{name} (n = {next(iter(counts)):,})" if common else name
        best = set() if is_loss and loss_differs else _best(runs, all_of, settings)
        several = len(counts) > 1 and not is_loss
        texts = [
            "" if one is None else _number(one, several, index in best)
            for index, one in enumerate(all_of)
        ]
        values = [None if one is None else one["value"] for one in all_of]
        found.append(Column(name, title, values, texts, 1, True))
    return found


def _best(
    runs: Sequence[ListedRun], numbers: Sequence[Measured | None], settings: Settings
) -> set[int]:
    """Return the indices of the runs with the best number among those that can be compared.

    Training losses are compared within a seed: another seed means other images and other noise.
    """
    groups: dict[tuple[object, ...], list[tuple[float, int]]] = {}
    for index, (run, one) in enumerate(zip(runs, numbers, strict=True)):
        if one is None or settings.of(run).get("source") == "real":
            continue
        labels = tuple(str(one.get(key)) for key in ("reference", "implementation"))
        is_training = run.stage == "train"  # losses of different seeds have different images
        count = settings.of(run).get("seed") if is_training else one.get("n")
        sign = -1 if one.get("better") == "higher" else 1
        groups.setdefault((run.stage, count, *labels), []).append((sign * one["value"], index))
    found = set()
    for group in groups.values():
        best = min(group)[0]
        if len({value for value, _ in group}) > 1:
            found |= {index for value, index in group if value == best}
    return found


def _number(one: Measured, with_count: bool, is_best: bool) -> str:
    value = one["value"]
    count = f" (n = {one['n']:,})" if with_count and "n" in one else ""
    return f"{value:.{digits_for(value)}f}{count}{'*' if is_best else ' '}"


def _state(run: ListedRun) -> str:
    total, step = run.settings.get("num_steps"), run.step
    return f"{run.state}, {step:,} of {total:,}" if step and total else run.state


def render(columns: Sequence[Column], width: int | None) -> str:
    """Return the table as text of at most `width` characters per line; None means no limit."""
    shown = fitting(columns, width)
    lines = zip(*(column.texts for column in shown), strict=True)
    right = {index for index, column in enumerate(shown) if column.right}
    text = aligned([column.title for column in shown], [*lines], right)
    if left_out := [column.title for column in columns if column not in shown]:
        text += f"\nleft out, as the terminal is narrow: {', '.join(left_out)}"
    if any(text.endswith("*") for column in columns if column.right for text in column.texts):
        text += f"\n{BEST}"
    return text


def fitting(columns: Sequence[Column], width: int | None) -> list[Column]:
    """Return the columns that fit into a width; the first one is shortened if necessary."""
    shown = list(columns)
    if width is None:
        return shown
    while _width(shown) > width:
        spare = max(each.spare for each in shown)
        if spare == 0 or (spare == 1 and sum(each.spare == 1 for each in shown) == 1):
            break
        shown.remove([each for each in shown if each.spare == spare][-1])
    longest = max(NARROWEST, width - _width(shown[1:]) - GAP)
    names = [shortened_name(name, longest) for name in shown[0].texts]
    return [replace(shown[0], texts=names), *shown[1:]]


def _width(columns: Sequence[Column]) -> int:
    return sum(each.width + GAP for each in columns) - GAP


def shortened_name(name: str, longest: int) -> str:
    """Return the name of a run, shortened in the middle if too long: finetune-lr..4b6f15b5ef."""
    if len(name) <= longest:
        return name
    kept = name.rpartition("-")[2][-(longest - 2) :]
    return f"{name[: longest - 2 - len(kept)]}..{kept}"


def order_by(column: Column, descending: bool) -> list[int]:
    """Return the indices of the runs in the order of a column; those without a value come last."""
    known = [index for index, value in enumerate(column.values) if value is not None]
    mixed = len({isinstance(column.values[index], (int, float)) for index in known}) > 1

    def order(index: int) -> Any:
        value = column.values[index]
        return str(value) if mixed or not isinstance(value, (int, float, str)) else value

    known.sort(key=order, reverse=descending)
    return known + [index for index, value in enumerate(column.values) if value is None]


def reordered(column: Column, order: Sequence[int]) -> Column:
    """Return a column of the same runs in another order."""
    values, texts = ([part[index] for index in order] for part in (column.values, column.texts))
    return replace(column, values=values, texts=texts)


def record_of(run: ListedRun, settings: Settings) -> dict[str, object]:
    """Return a run as a JSON object, with all its settings that can change results."""
    return {
        "run": str(run.path),
        "suite": run.suite,
        "stage": run.stage,
        "state": run.state,
        "time": run.time,
        "seconds": run.status.get("seconds"),
        "bytes": run.num_bytes,
        "settings": settings.of(run),
        "numbers": run.numbers,
        "error": run.status.get("error"),
    }


def counts(states: Mapping[str, int]) -> str:
    """Return the number of runs by state as text, such as "12 done, 1 running"."""
    return ", ".join(f"{number} {state}" for state, number in states.items())
