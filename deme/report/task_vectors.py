"""A report on task vectors: norms, cosines, sign agreement and the spread of entries (Figure
6b)."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from deme.report.style import COLOURS, style
from deme.system import JsonObject

# The rows of task_vectors.json, from deme.merging.similarity.
Tensors = Sequence[JsonObject]


def summary(models: Sequence[str], tensors: Tensors) -> list[str]:
    """Return lines about the whole model: relative norms, cosines, agreement of signs."""
    total = _summed(tensors)
    base = math.sqrt(sum(one["base_norm"] ** 2 for one in tensors))
    norms = [math.sqrt(total["products"][i][i]) for i in range(len(models))]
    relative = ", ".join(
        f"{norm / base:.2%} ({model})" for model, norm in zip(models, norms, strict=True)
    )
    lines = [f"task vectors (expert minus base): norms relative to the base's: {relative}"]
    pairs = [(i, j) for i in range(len(models)) for j in range(i)]
    if pairs and min(norms) > 0:
        cosines = [total["products"][i][j] / norms[i] / norms[j] for i, j in pairs]
        agreement = [total["agreement"][i][j] for i, j in pairs]
        lines.append(
            f"cosines between them: {_range(cosines)}; entries of equal sign: {_range(agreement)} "
            f"({len(pairs)} pair{'s' if len(pairs) > 1 else ''}; alike: 1, unrelated: 0 and 0.5)"
        )
    return lines


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _summed(tensors: Tensors) -> dict[str, list[list[float]]]:
    """Return inner products summed over tensors, and sign agreement averaged over entries."""
    size, count = len(tensors[0]["products"]), sum(one["count"] for one in tensors)
    both = range(size)
    return {
        "products": [[sum(one["products"][i][j] for one in tensors) for j in both] for i in both],
        "agreement": [
            [sum(one["count"] * one["agreement"][i][j] for one in tensors) / count for j in both]
            for i in both
        ],
    }


@style()
def box_plots(models: Sequence[str], tensors: Tensors) -> Figure:
    """Return a figure with a panel per expert and a box per layer: quartiles of task vector
    entries.

    Whiskers are at 5% and 95%. Biases and scalars are left out; layers are in the model's order.
    """
    layers = [one for one in tensors if one["count"] > 1 and not one["name"].endswith("bias")]
    size = (max(8.0, min(24.0, 0.14 * len(layers) + 2)), 2.1 * len(models) + 1.2)
    figure = Figure(figsize=size, layout="tight")
    panels = figure.subplots(len(models), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for index, (panel, model) in enumerate(zip(panels, models, strict=True)):
        boxes = [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), one["quantiles"][index], strict=True))
            for one in layers
        ]
        panel.bxp(
            boxes,
            positions=range(len(layers)),
            widths=0.7,
            showfliers=False,
            medianprops={"color": COLOURS["worse"]},
        )
        panel.set_ylabel(f"{model}\nentries", fontsize=8, parse_math=False)
        panel.tick_params(labelsize=7)
        panel.grid(axis="y", alpha=0.3)
    firsts = [i for i, one in enumerate(layers) if i == 0 or one["block"] != layers[i - 1]["block"]]
    panels[-1].set_xticks(
        firsts,
        [layers[i]["block"] for i in firsts],
        rotation=60,
        ha="right",
        fontsize=7,
        parse_math=False,
    )
    for panel in panels:
        for first in firsts[1:]:
            panel.axvline(first - 0.5, color="#bbbbbb", linewidth=0.6)
    panels[0].set_title(
        "entries of the task vectors, expert minus base, layer by layer (5, 25, 50, 75, 95%)",
        fontsize=9,
    )
    return figure
