"""The weights of the tasks of ANT over training. Does not import torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deme.analysis import Analysis
from deme.report.records import task_weight_curves
from deme.report.style import COLUMN, SERIES, style
from deme.runs import is_run
from deme.system import BadConfig, locate


def task_weights(run: str | None) -> Analysis:
    """Draw the weight of every task over the steps of a training run; the table has the last."""
    needed = "type: run=<directory of a deme train run with method=ant>"
    if run is None:
        raise BadConfig(f"this figure shows the task weights of a training run\n{needed}")
    folder = locate(run)
    curves = task_weight_curves(folder)
    if not is_run(folder) or not curves:
        raise BadConfig(f"{run} is not a training run with task weights\n{needed}")
    last = [[name, f"{values[-1]:.6g}"] for name, (_, values) in curves.items()]
    return Analysis(draw({folder.name: [folder]}), [["task", "last weight"], *last])


@style()
def draw(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Return a panel per title with a line per task: the mean over runs, and their range."""
    size = (max(COLUMN, 3.4 * len(runs)) if len(runs) > 1 else COLUMN / 2, 2.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, (title, folders) in zip(panels, runs.items(), strict=True):
        found = [task_weight_curves(folder) for folder in folders]
        for index, (name, (steps, _)) in enumerate(found[0].items()):
            values = np.array([one[name][1] for one in found if one[name][0] == steps])
            colour = SERIES[index % len(SERIES)]
            panel.plot(steps, values.mean(axis=0), color=colour, lw=1.2, label=name)
            low, high = values.min(axis=0), values.max(axis=0)
            panel.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
        panel.set_yscale("log")
        panel.set_title(title, parse_math=False)
        panel.set_xlabel("training step")
    panels[0].set_ylabel("weight of the task's loss")
    legend = figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
