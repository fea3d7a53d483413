"""The weights of the tasks of ANT over training. Does not import torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from deme.analysis import Analysis
from deme.report.records import task_weight_curves
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
        raise BadConfig(f"{run} is no training run with task weights\n{needed}")
    last = [[name, f"{values[-1]:.6g}"] for name, (_, values) in curves.items()]
    return Analysis(draw({folder.name: [folder]}), [["task", "last weight"], *last])


def draw(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Return a panel per title, with a line per task and run and a colour per task."""
    figure = Figure(figsize=(6 * len(runs), 4.3))
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, (title, folders) in zip(panels, runs.items(), strict=True):
        for number, folder in enumerate(folders):
            for index, (name, (steps, values)) in enumerate(task_weight_curves(folder).items()):
                panel.plot(
                    steps,
                    values,
                    color=f"C{index}",
                    lw=0.9,
                    alpha=0.8,
                    label=None if number else name,
                )
        panel.set_yscale("log")
        panel.set_title(title, fontsize=10, parse_math=False)
        panel.set_xlabel("step")
        legend = panel.legend(
            fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    panels[0].set_ylabel("weight of the task's loss")
    figure.tight_layout()
    return figure
