"""`deme compare`: two evaluations on the same sampling seeds, difference by difference.

See docs/metrics.md for the intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deme.commands.arguments import evaluation_config
from deme.report import rows
from deme.report.statistics import Cell, Difference, digits_for
from deme.report.tables import difference_cells
from deme.report.terminal import text_table
from deme.runs import EvaluateSettings, Metrics, Replicates, frozen_settings
from deme.system import BadConfig, locate, logger, print_result, read_json

Results = dict[Cell, Mapping[str, Any]]
COLUMNS = ("metric", "first", "second", "difference (95% interval)", "verdict")
MUST_AGREE = ("n", "prompts", "reference", "implementation")


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
    one, other = read_evaluations(first), read_evaluations(second)
    paired = {cell[1] for cell in one} & {cell[1] for cell in other}
    if not paired:
        raise BadConfig(
            f"no sampling seed in common: {sorted({c[1] for c in one})} and "
            f"{sorted({c[1] for c in other})}\n"
            "paired differences need images from the same noise: evaluate both with the same "
            "sample_seed"
        )
    one, other = ({c: found[c] for c in found if c[1] in paired} for found in (one, other))
    seeds, others = ({cell[0] for cell in found} for found in (one, other))
    if not seeds & others and seeds != {None} and others != {None}:
        raise BadConfig(
            f"no finetuning seed in common: {sorted(seeds, key=str)} and "
            f"{sorted(others, key=str)}\n"
            "compare models of the same finetuning seeds, or one of them with a model that was "
            "not finetuned"
        )
    one, other = _partnered(one, other), _partnered(other, one)
    results = (*one.values(), *other.values())
    lines = [
        _row(metric, one, other)
        for metric in results[0]["metrics"]
        if all(metric in result["metrics"] for result in results)
    ]
    print_result(text_table(f"{', '.join(first)} against {', '.join(second)}", COLUMNS, lines))
    if {*map(_place, first)} == {*map(_place, second)}:
        logger.warning("both are the same: every difference is 0")
    number = len({cell[0] for cell in (*one, *other)} - {None})
    spread = f", and the spread between {number} finetuning seeds" if number > 1 else ""
    alone = ", of one finetuning seed" if number == 1 else ""
    print_result(
        f"Paired over sampling seeds {sorted({cell[1] for cell in one})}. Intervals: bootstrap "
        f"over images (of scores: over prompts){spread or alone}."
    )


def _place(name: str) -> Path:
    return locate(name).resolve()


def _partnered(these: Results, others: Results) -> Results:
    """Return those evaluations that a difference is taken of: the others have their seeds, too."""
    return {
        (seed, sample_seed): result
        for (seed, sample_seed), result in these.items()
        if any(
            sample_seed == other_sample_seed and (seed == other or None in (seed, other))
            for other, other_sample_seed in others
        )
    }


def _row(metric: str, one: Results, other: Results) -> list[str]:
    labels = [result["metrics"][metric] for result in (*one.values(), *other.values())]
    for key in MUST_AGREE:
        found = {str(label.get(key)) for label in labels}
        if len(found) > 1:
            raise BadConfig(
                f"{metric} is not the same metric in these runs: {key} is "
                f"{' and '.join(sorted(found))}"
            )
    means = [mean_value(metric, each) for each in (one, other)]
    places = digits_for(means[0])
    cells = difference_cells(difference_of(metric, one, other), places)
    return [metric, *(f"{mean:.{places}f}" for mean in means), *cells]


def mean_value(metric: str, results: Results) -> float:
    """Return the mean of a metric over evaluations."""
    return sum(rows.values_of(metric, results).values()) / len(results)


def difference_of(metric: str, one: Results, other: Results) -> Difference | None:
    """Return one minus the other, paired; None where no bootstrap replicates are stored.

    Raises BadConfig for another number of replicates.
    """
    if {cell[0] for cell in one} != {None}:
        return rows.difference_of(metric, one, other)
    turned = rows.difference_of(metric, other, one)  # one that was not finetuned is the baseline
    return turned and replace(turned, value=-turned.value, low=-turned.high, high=-turned.low)


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
        cell = (about.seed, about.sample_seed)
        if cell in found:
            raise BadConfig(
                f"two of these runs have finetuning seed {cell[0]} and sampling seed {cell[1]}: "
                f"{', '.join(names)}"
            )
        found[cell] = {
            "metrics": read_json(path / "metrics.json", Metrics)["metrics"],
            "replicates": read_json(path / "replicates.json", Replicates),
        }
    return found
