"""`deme compare`: compare two evaluations with the same sampling seeds, with intervals.

See docs/metrics.md for the intervals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deme.commands.arguments import evaluation_config
from deme.report import rows
from deme.report.statistics import Difference, RunSeeds
from deme.report.tables import difference_cells
from deme.report.terminal import text_table
from deme.runs import EvaluateSettings, Replicates, frozen_settings, read_metrics
from deme.system import BadConfig, digits_for, locate, logger, print_result, read_json

Results = dict[RunSeeds, Mapping[str, Any]]
COLUMNS = ("metric", "first", "second", "difference (95% interval)", "verdict")
SEEDS = {  # what they are seeds of, and why both evaluations must have the same
    "sample_seed": (
        "sampling",
        "paired differences need images from the same noise: evaluate both with the same "
        "sample_seed",
    ),
    "seed": (
        "finetuning",
        "compare models of the same finetuning seeds, or one of them with a model that was not "
        "finetuned",
    ),
    "pretrain_seed": (
        "pretraining",
        "compare models that start from bases of the same pretraining seeds",
    ),
}
MUST_AGREE = ("n", "prompts", "reference", "implementation")


class Differences(dict[str, Difference]):
    """The paired difference of each metric; it prints as a table."""

    def __init__(self, found: Mapping[str, Difference], text: str) -> None:
        super().__init__(found)
        self.text = text

    def __repr__(self) -> str:
        return self.text


def run(args: Sequence[str]) -> None:
    """Print every metric of two evaluations, and first minus second where replicates are stored.

    Each argument is a run, or a run per seed: <run>,<run>,... Raises BadConfig, MissingInput.
    """
    if len(args) != 2:
        raise BadConfig(
            f"deme compare takes two evaluations, got {len(args)}\n"
            "type: deme compare <run> <run>, or <run>,<run>,... twice for several seeds each"
        )
    first, second = (arg.split(",") for arg in args)
    one, other = _paired(first, second)
    title = f"{', '.join(first)} against {', '.join(second)}"
    print_result(text_table(title, COLUMNS, _lines(one, other)))
    if {*map(_place, first)} == {*map(_place, second)}:
        logger.warning("both are the same evaluations: every difference is 0")
    number = len({cell.seed for cell in (*one, *other)} - {None})
    spread = f", and the spread between {number} finetuning seeds" if number > 1 else ""
    bases = len({cell.pretrain_seed for cell in (*one, *other)} - {None})
    if bases > 1:
        spread += f", and that between {bases} pretraining seeds"
    alone = ", of one finetuning seed" if number == 1 and bases < 2 else ""
    print_result(
        f"Paired over sampling seeds {sorted({cell.sample_seed for cell in one})}. Intervals: "
        f"bootstrap over images (of scores: over prompts){spread or alone}."
    )


def differences(first: Sequence[str], second: Sequence[str]) -> Differences:
    """Return the paired difference of each metric, first minus second, where it is defined.

    Each argument lists the directories of evaluations. Raises BadConfig, MissingInput.
    """
    one, other = _paired(first, second)
    found = {
        metric: rows.difference_of(metric, one, other) for metric in _shared_metrics(one, other)
    }
    known = {metric: difference for metric, difference in found.items() if difference is not None}
    return Differences(known, text_table(None, COLUMNS, _lines(one, other)))


def _paired(first: Sequence[str], second: Sequence[str]) -> tuple[Results, Results]:
    """Return the evaluations of both sides that have a counterpart with the same seeds."""
    one, other = read_evaluations(first), read_evaluations(second)
    _check_shared("sample_seed", one, other)
    paired = {cell.sample_seed for cell in one} & {cell.sample_seed for cell in other}
    one, other = ({c: found[c] for c in found if c.sample_seed in paired} for found in (one, other))
    _check_shared("seed", one, other)
    _check_shared("pretrain_seed", one, other)
    one, other = _partnered(one, other), _partnered(other, one)
    if not one:
        raise BadConfig("no two of these evaluations have all seeds in common")
    return one, other


def _shared_metrics(one: Results, other: Results) -> list[str]:
    """Return the metrics that all evaluations have.

    Raises BadConfig for a metric that was computed differently in some of them.
    """
    results = (*one.values(), *other.values())
    shared = [
        metric
        for metric in results[0]["metrics"]
        if all(metric in result["metrics"] for result in results)
    ]
    for metric in shared:
        _check_same(metric, [result["metrics"][metric] for result in results])
    return shared


def _check_same(metric: str, labels: Sequence[Mapping[str, Any]]) -> None:
    for key in MUST_AGREE:
        found = {str(label.get(key)) for label in labels}
        if len(found) > 1:
            raise BadConfig(
                f"{metric} is not the same metric in these runs: {key} is "
                f"{' and '.join(sorted(found))}"
            )


def _place(name: str) -> Path:
    return locate(name).resolve()


def _check_shared(key: str, one: Results, other: Results) -> None:
    """Raise BadConfig if no evaluation of one has the same seed as one of the other."""
    seeds, others = (
        sorted({getattr(cell, key) for cell in found}, key=lambda seed: (seed is None, seed or 0))
        for found in (one, other)
    )
    if not {*seeds} & {*others} and [None] not in (seeds, others):
        what, why = SEEDS[key]
        raise BadConfig(f"no {what} seed in common: {seeds} and {others}\n{why}")


def _partnered(these: Results, others: Results) -> Results:
    """Return those evaluations that a difference is taken of: the others have their seeds, too."""
    return {cell: result for cell, result in these.items() if any(map(cell.is_paired, others))}


def _lines(one: Results, other: Results) -> list[list[str]]:
    return [_row(metric, one, other) for metric in _shared_metrics(one, other)]


def _row(metric: str, one: Results, other: Results) -> list[str]:
    means = [mean_value(metric, each) for each in (one, other)]
    places = digits_for(means[0])
    cells = difference_cells(rows.difference_of(metric, one, other), places)
    return [metric, *(f"{mean:.{places}f}" for mean in means), *cells]


def mean_value(metric: str, results: Results) -> float:
    """Return the mean of a metric over evaluations."""
    return sum(rows.values_of(metric, results).values()) / len(results)


def read_evaluations(names: Sequence[str]) -> Results:
    """Return metrics and replicates of finished evaluations by their seeds.

    Raises BadConfig, MissingInput.
    """
    found: Results = {}
    for name in names:
        path = locate(name)
        evaluation_config(path)  # is one
        about = frozen_settings(path)
        assert isinstance(about, EvaluateSettings)  # evaluation_config has refused others
        base = about.cell.get("pretrain_seed")
        pretrain_seed = base if isinstance(base, int) else None
        cell = RunSeeds(about.seed, about.sample_seed, pretrain_seed)
        if cell in found:
            of_base = "" if pretrain_seed is None else f"pretraining seed {pretrain_seed}, "
            raise BadConfig(
                f"two of these runs have {of_base}finetuning seed {cell.seed} and sampling seed "
                f"{cell.sample_seed}: {', '.join(names)}"
            )
        found[cell] = {
            "metrics": read_metrics(path),
            "replicates": read_json(path / "replicates.json", Replicates),
        }
    return found
