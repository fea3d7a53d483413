"""What the gain of a merged model consists of: a waterfall over the rows of a suite's table.

A part is the difference of its row to the row of the part before, so that the parts add up to the
difference of the last row to the first (docs/figures.md#decomposition). Does not import torch.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deme.analysis import Analysis
from deme.report.differences import DifferenceTable, open_table
from deme.report.statistics import Difference
from deme.report.style import COLOURS
from deme.runs import row_and_base
from deme.system import BadConfig, WorkFailed, did_you_mean, digits_for

TOTAL = "all parts"
LABEL_WIDTH = 40  # characters in a line beside the bars


@dataclass(frozen=True)
class Chain:
    """The parts of one metric: the mean of the first row, and the difference of every part.

    `total`: the paired difference of the last row to the first.
    """

    metric: str
    start: float
    parts: Mapping[str, Difference]
    total: Difference


def decomposition(
    table: str | None,
    runs: Path,
    start: str,
    parts: Mapping[str, str | None],
    metrics: Sequence[str] | None = None,
) -> Analysis:
    """Draw the parts from row `start` over the rows of `parts`, a panel per metric.

    `table`: a suite, whose finished runs are below `runs`, or a .csv of `deme table`. Raises
    BadConfig for rows and metrics that the table does not have, WorkFailed if the parts do not add
    up.
    """
    if table is None:
        raise BadConfig(
            "this figure is drawn from the table of a suite\n"
            "type: figure.table=<suite, or .csv of deme table>"
        )
    rows = {name: row for name, row in parts.items() if row is not None}
    if not rows:
        raise BadConfig("figure.parts names no part\ntype: figure.parts.<part>=<row>")
    found = open_table(Path(table), runs)
    shown = list(metrics) if metrics else list(found.metrics)
    _check(table, "row", [start, *rows.values()], list(found.means))
    _check(table, "metric", shown, found.metrics)
    chains = decompose(found, start, rows, shown)
    numbers = {
        "table": Path(table).name,
        "rows": {"start": start, **rows},
        "intervals": found.intervals,
        "metrics": {chain.metric: _entry(chain) for chain in chains},
    }
    return Analysis(_draw(chains, found, start, rows), _lines(chains), numbers)


def _check(table: str, what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise BadConfig for a row or metric that the table does not have."""
    for name in wanted:
        if name not in known:
            near = did_you_mean(name, known)
            raise BadConfig(
                f"{table} has no {what} {name!r}; {near}allowed: {', '.join(known)}"
                + ("\ntype: figure.parts.<part>=<row>, or null to leave it out" * (what == "row"))
            )


def decompose(
    table: DifferenceTable, start: str, rows: Mapping[str, str], metrics: Sequence[str]
) -> list[Chain]:
    """Return the parts of every metric. Raises WorkFailed unless they add up to the whole."""
    chain = [start, *rows.values()]
    pairs = [(row, before) for before, row in pairwise(chain)]
    *parts, whole = table.differences([*pairs, (chain[-1], start)], metrics)
    found = []
    for metric in metrics:
        given = {name: part[metric] for name, part in zip(rows, parts, strict=True)}
        known = {name: one for name, one in given.items() if one is not None}
        total = whole[metric]
        if total is None or len(known) < len(given):
            missing = [name for name in given if name not in known] or [TOTAL]
            raise WorkFailed(
                f"{metric} has no paired difference for {', '.join(missing)}: a row is not "
                "measured yet, or has no bootstrap replicates\ntype: deme reproduce <suite>, or "
                "paths.runs=<folder of its runs>"
            )
        reached = math.fsum(one.value for one in known.values())
        if not math.isclose(reached, total.value, rel_tol=1e-9, abs_tol=1e-9):
            raise WorkFailed(
                f"the parts of {metric} add up to {reached:g}, and the whole difference is "
                f"{total.value:g}: the rows do not have the same finetuning and sampling seeds\n"
                "type: figure.parts.<part>=<row>, with rows of the same seeds"
            )
        found.append(Chain(metric, table.means[start][metric], known, total))
    return found


def _entry(chain: Chain) -> dict[str, object]:
    every = {**chain.parts, TOTAL: chain.total}
    return {
        "start": chain.start,
        "parts": {
            name: {
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "verdict": one.verdict,
                "num_finetune_seeds": one.num_finetune_seeds,
                "num_pretrain_seeds": one.num_pretrain_seeds,
            }
            for name, one in every.items()
        },
    }


def _lines(chains: Sequence[Chain]) -> list[list[str]]:
    lines = [["part", *(t for chain in chains for t in (chain.metric, "95% interval", "verdict"))]]
    for name in (*chains[0].parts, TOTAL):
        line = [name]
        for chain in chains:
            one, places = {**chain.parts, TOTAL: chain.total}[name], digits_for(chain.start)
            interval = f"[{one.low:+.{places}f}, {one.high:+.{places}f}]"
            line += [f"{one.value:+.{places}f}", interval, one.verdict]
        lines.append(line)
    return lines


def _draw(
    chains: Sequence[Chain], table: DifferenceTable, start: str, rows: Mapping[str, str]
) -> Figure:
    """Return a panel per metric: a bar per part, from the value before to the one it reaches."""
    size = (2.8 + 4.2 * len(chains), 1.5 + 0.5 * (len(rows) + 2))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(chains), sharey=True, squeeze=False)[0]
    for panel, chain in zip(panels, chains, strict=True):
        _waterfall(panel, chain)
    names = [*_names(table.labels, start, rows), TOTAL]
    panels[0].set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    panels[0].invert_yaxis()
    alone = any(one.of_one_model for chain in chains for one in chain.parts.values())
    figure.supxlabel(
        f"lines: 95% intervals of each part, around where it ends ({table.intervals})\n"
        "blue better, orange worse, grey not resolved"
        + ("; one finetuning seed: about these weights, not about the method" if alone else ""),
        fontsize=8,
    )
    return figure


def _names(labels: Mapping[str, str], start: str, rows: Mapping[str, str]) -> list[str]:
    """Return the labels of the bars. A row's base is named where the row before has another."""
    found, last = [], None
    for part, row in (("", start), *rows.items()):
        base = row_and_base(row)[1]
        text = (f"{part} → " if part else "") + labels[row]
        text += f", {base} base" if base not in (None, last) else ""
        found.append("\n".join(textwrap.wrap(text, LABEL_WIDTH)))
        last = base
    return found


def _waterfall(panel: Axes, chain: Chain) -> None:
    places, level = digits_for(chain.start), chain.start
    panel.plot(level, 0, "o", color="black", ms=5)
    _note(panel, level, 0, f"{level:.{places}f}", "black")
    for place, one in enumerate(chain.parts.values(), start=1):
        panel.plot([level, level], [place - 1, place + 0.31], color="black", lw=0.7, ls=":")
        _bar(panel, place, level, one, places)
        level += one.value
    last = len(chain.parts) + 1
    panel.plot([level, level], [last - 1, last + 0.31], color="black", lw=0.7, ls=":")
    _bar(panel, last, chain.start, chain.total, places)
    panel.axhline(last - 0.5, color="#9a9a9a", lw=0.7)
    panel.use_sticky_edges = False
    panel.margins(x=0.22)
    panel.set_title(chain.metric, fontsize=9, parse_math=False)
    panel.tick_params(axis="x", labelsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.ticklabel_format(axis="x", useOffset=False)
    panel.set_axisbelow(True)
    panel.grid(axis="x", lw=0.3)


def _bar(panel: Axes, place: int, level: float, one: Difference, places: int) -> None:
    colour, ends = COLOURS[one.verdict], (level + one.low, level + one.high)
    panel.barh(place, one.value, left=level, height=0.62, color=colour, alpha=0.75)
    panel.plot(ends, [place, place], color="black", lw=1.3)
    _note(panel, max(level, *ends), place, f"{one.value:+.{places}f}", colour)


def _note(panel: Axes, x: float, place: int, text: str, colour: str) -> None:
    panel.annotate(text, (x, place), (5, 0), textcoords="offset points", va="center", fontsize=8,
                   color=colour)  # fmt: skip
