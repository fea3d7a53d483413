"""`deme compare`: two evaluations on the same sampling seeds, difference by difference (METHOD 10)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deme.report.numbers import digits_for
from deme.report.statistics import Cell, Difference, paired_difference, resampled_units
from deme.report.tables import difference_cells
from deme.runs.inputs import is_run, load_yaml, read_status
from deme.runs.run import say
from deme.system.errors import BadConfig, MissingInput
from deme.system.files import read_json
from deme.system.paths import locate

Results = dict[Cell, dict[str, Any]]
MUST_AGREE = ("n", "prompts", "reference", "implementation")


def run(first: Sequence[str], second: Sequence[str]) -> int:
    """Print every metric of both, and first minus second where bootstrap replicates are stored; return 0."""
    one, other = read_evaluations(first), read_evaluations(second)
    paired = {cell[1] for cell in one} & {cell[1] for cell in other}
    if not paired:
        raise BadConfig(
            f"no sampling seed in common: {sorted({c[1] for c in one})} and {sorted({c[1] for c in other})}\n"
            "paired differences need images from the same noise: evaluate both with the same sample_seed"
        )
    one, other = (
        {cell: found[cell] for cell in found if cell[1] in paired} for found in (one, other)
    )
    seeds, others = ({cell[0] for cell in found} for found in (one, other))
    if not seeds & others and seeds != {None} and others != {None}:
        raise BadConfig(
            f"no finetuning seed in common: {sorted(seeds, key=str)} and {sorted(others, key=str)}\n"
            "compare models of the same finetuning seeds, or either of them with what was not finetuned"
        )
    table = Table(title=f"{', '.join(first)} against {', '.join(second)}")
    for column in ("metric", "first", "second", "difference (95% interval)", "verdict"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric in next(iter(one.values()))["metrics"]:
        if all(metric in result["metrics"] for result in (*one.values(), *other.values())):
            table.add_row(*_row(metric, one, other))
    Console(width=max(Console().width, 120)).print(table)
    number = max(len(seeds), len(others))
    say(
        f"Paired over sampling seeds {sorted(paired)} and the bootstrap over images (of scores: over prompts)"
        + (
            f", with the spread between {number} finetuning seeds."
            if number > 1
            else "; one finetuning seed."
        )
    )
    return 0


def _row(metric: str, one: Results, other: Results) -> list[str]:
    results = [*one.values(), *other.values()]
    for key in MUST_AGREE:
        found = {str(result["metrics"][metric].get(key)) for result in results}
        if len(found) > 1:
            raise BadConfig(
                f"{metric} does not mean the same in these runs: {key} is {' and '.join(sorted(found))}"
            )
    values, others = (
        {cell: result["metrics"][metric]["value"] for cell, result in found.items()}
        for found in (one, other)
    )
    means = [sum(each.values()) / len(each) for each in (values, others)]
    places = digits_for(means[0])
    return [
        metric,
        *(f"{mean:.{places}f}" for mean in means),
        *difference_cells(difference_of(metric, one, other), places),
    ]


def difference_of(metric: str, one: Results, other: Results) -> Difference | None:
    """Return one minus the other, paired; None where no bootstrap replicates are stored. Raises BadConfig."""
    results = [*one.values(), *other.values()]
    if not all(
        metric in result["replicates"] and "std" not in result["metrics"][metric]
        for result in results
    ):
        return None
    counts = {len(result["replicates"][metric]) for result in results}
    if len(counts) > 1:
        raise BadConfig(
            f"{metric} was resampled {' and '.join(map(str, sorted(counts)))} times: evaluate with the same metrics.replicates"
        )
    values, others, spread, other_spread = (
        {cell: of(result) for cell, result in found.items()}
        for of in (lambda r: r["metrics"][metric]["value"], lambda r: r["replicates"][metric])
        for found in (one, other)
    )
    about = results[0]["metrics"][metric]
    units = resampled_units(about)
    if {cell[0] for cell in one} == {None}:  # what was not finetuned is the baseline of the pairs
        turned = paired_difference(others, values, other_spread, spread, units)
        return turned and Difference(
            -turned.value, -turned.high, -turned.low, turned.num_finetune_seeds
        ).of(about)
    found = paired_difference(values, others, spread, other_spread, units)
    return found and found.of(about)


def read_evaluations(names: Sequence[str]) -> Results:
    """Return metrics and replicates of finished evaluations by their seeds. Raises BadConfig, MissingInput."""
    found: Results = {}
    for name in names:
        path: Path = locate(name)
        if not is_run(path) or path.parent.name != "evaluate":
            raise BadConfig(
                f"{name} is no evaluation\ntype: deme compare <evaluate run> <evaluate run>"
            )
        if read_status(path).get("state") != "done":
            raise MissingInput(
                f"{path} is not finished (state: {read_status(path).get('state')}); run its command again"
            )
        config = load_yaml(path / "config.yaml")
        cell = (config["seed"], config["sample_seed"])
        if cell in found:
            raise BadConfig(
                f"two of these runs have finetuning seed {cell[0]} and sampling seed {cell[1]}: {', '.join(names)}"
            )
        found[cell] = {
            "metrics": read_json(path / "metrics.json")["metrics"],
            "replicates": read_json(path / "replicates.json"),
        }
    return found
