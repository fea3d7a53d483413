"""The table and the curve of experiments/merge_search by strategy.

They say what each search found, compared with the uniform merge and the grid.
`python experiments/merge_search/compare.py [runs [results]]` writes searches.md, .csv and .png from
finished runs. Differences are over sampling seeds and the bootstrap over images; the three
search seeds stand where a table has finetuning seeds.
"""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib.figure import Figure

from deme.report.statistics import paired_difference
from deme.runs import Metrics, Replicates, Suite
from deme.system import files, read_json, read_jsonl

HERE = Path(__file__).parent
METRIC = "fd_digits"
STRATEGIES = {
    "grid": "grid, 5^4",
    "coordinate": "coordinate",
    "cma_es": "CMA-ES",
    "surrogate": "quadratic surrogate",
    "loss": "gradient of the denoising loss",
    "distil": "gradient of the distillation loss",
}
SEEDS = range(3)


def measured(suite, row, seed=None):
    """Return value, replicates and count by (search seed, sampling seed)."""
    found = {}
    for node in suite.evaluations(row):
        if node.state == "done":
            about = read_json(node.path / "metrics.json", Metrics)["metrics"][METRIC]
            replicates = read_json(node.path / "replicates.json", Replicates)[METRIC]
            found[seed, node.sample_seed] = (about["value"], replicates, about["n"])
    return found


def difference(one, other):
    values, spread = ({cell: found[i] for cell, found in one.items()} for i in (0, 1))
    base, base_spread = ({cell: found[i] for cell, found in other.items()} for i in (0, 1))
    return paired_difference(values, base, spread, base_spread, next(iter(one.values()))[2])


def history(suite, row):
    (node,) = [node for node in suite.nodes if node.row == row and node.stage == "search"]
    rows = read_jsonl(node.run.path / "evaluations.jsonl", dict[str, Any])
    return rows, read_json(node.run.path / "cost.json")


def best_so_far(rows):
    images, best, curve = 0, float("inf"), []
    for row in rows:
        images += row["images"]
        if row["fraction"] == 1 and row["score"] is not None:
            best = min(best, row["score"])
            curve.append((images, best))
    return curve


def told(d):
    return f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}] | {d.verdict}"


def main(runs=Path("runs"), folder=HERE / "results"):
    suite = Suite.read(HERE / "suite.yaml", runs)
    uniform = measured(suite, "uniform")
    by_strategy = {
        name: {
            cell: value for i in SEEDS for cell, value in measured(suite, f"{name}_{i}", i).items()
        }
        for name in STRATEGIES
    }
    searches = {name: [history(suite, f"{name}_{i}") for i in SEEDS] for name in STRATEGIES}
    goals = [best_so_far(rows)[-1][1] for rows, _ in searches["grid"]]
    lines, table = (
        [],
        [
            [
                "strategy",
                "evaluations",
                "images",
                "num_forward_passes",
                METRIC,
                "to_uniform",
                "to_uniform_low",
                "to_uniform_high",
                "to_grid",
                "to_grid_low",
                "to_grid_high",
            ]
        ],
    )
    for name, label in STRATEGIES.items():
        cells, costs = by_strategy[name], [cost for _, cost in searches[name]]
        mean = sum(value for value, _, _ in cells.values()) / len(cells)
        evaluations, images, forwards = (
            sum(cost[key] for cost in costs) / len(costs)
            for key in ("evaluations", "images", "num_forward_passes")
        )
        to_uniform, to_grid = (
            difference(cells, uniform),
            difference(cells, by_strategy["grid"]) if name != "grid" else None,
        )
        reached = [
            next((images for images, best in best_so_far(rows) if best <= goal), None)
            for (rows, _), goal in zip(searches[name], goals, strict=True)
        ]
        comparable = name not in ("loss", "distil")
        until = (
            ", ".join("never" if r is None else f"{r:,}" for r in reached)
            if comparable
            else "another objective"
        )
        lines.append(
            f"| {label} | {evaluations:,.0f} | {images:,.0f} | {forwards / 1e6:.2f}M | "
            f"{mean:.2f} | {told(to_uniform)} | "
            f"{told(to_grid) if to_grid else '-- | --'} | {until} |"
        )
        other = [to_grid.value, to_grid.low, to_grid.high] if to_grid else ["", "", ""]
        table.append(
            [
                name,
                evaluations,
                images,
                forwards,
                mean,
                to_uniform.value,
                to_uniform.low,
                to_uniform.high,
                *other,
            ]
        )
    about = []
    for row, label in (
        ("before", "before finetuning"),
        ("routed", "unmerged experts"),
        ("uniform", "uniform merge"),
    ):
        values = [value for value, _, _ in measured(suite, row).values()]
        about.append(f"{label} {sum(values) / len(values):.2f}")
    count = f"{next(iter(uniform.values()))[2]:,} images by {len(uniform)} sampling seeds"
    head = (
        f"{METRIC} of {count}, {len(SEEDS)} search seeds a strategy, "
        f"one set of experts (lower is better): {', '.join(about)}.\n\n"
        f"| search | evaluations | images | forward passes | {METRIC} | to uniform | "
        "| to the grid | | images until the grid's best score |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    files.write_text(folder / "searches.md", head + "\n".join(lines) + "\n")
    text = io.StringIO()
    csv.writer(text).writerows(table)
    files.write_text(folder / "searches.csv", text.getvalue())
    with files.atomic(folder / "searches.png") as file:
        curves(searches, by_strategy, uniform).savefig(file, format="png", dpi=110)
    print(head + "\n".join(lines))


def curves(searches, by_strategy, uniform):
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, name in zip(
        ("#555555", "#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#ff7f0e"), STRATEGIES, strict=True
    ):
        if name not in ("loss", "distil"):
            for i, (rows, _) in enumerate(searches[name]):
                goal = best_so_far(searches["grid"][i][0])[-1][1]
                x, y = zip(
                    *((images, best - goal) for images, best in best_so_far(rows)), strict=True
                )
                left.step(
                    x,
                    y,
                    where="post",
                    color=colour,
                    linewidth=1,
                    label=STRATEGIES[name] if i == 0 else None,
                )
        cost = sum(cost["num_forward_passes"] for _, cost in searches[name]) / len(searches[name])
        d = difference(by_strategy[name], uniform)
        right.errorbar(
            [cost],
            [d.value],
            [[d.value - d.low], [d.high - d.value]],
            fmt="o",
            color=colour,
            capsize=3,
            label=STRATEGIES[name],
        )
    left.axhline(0, color="#aaaaaa", linewidth=0.7)
    left.set_xscale("log")
    left.set_ylim(-2, 3)
    left.set_xlabel("images looked at")
    left.set_ylabel("search's own score, minus the grid's best")
    left.set_title("best so far, each of three search seeds", fontsize=10)
    right.axhline(0, color="#aaaaaa", linewidth=0.7)
    right.set_xscale("log")
    right.set_xticks([2e5, 5e5, 1e6, 3e6], ["0.2M", "0.5M", "1M", "3M"])
    right.minorticks_off()
    right.set_xlabel("forward passes of one image in the search")
    right.set_ylabel(f"{METRIC}, minus the uniform merge's (95% interval)")
    right.set_title("judged on seeds that no search saw", fontsize=10)
    for panel in (left, right):
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
