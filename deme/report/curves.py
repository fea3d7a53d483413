"""Curves of finished training runs, as numbers."""

from pathlib import Path

from deme.system import read_json, read_jsonl


def task_weight_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and weights of every task of a run, {} for a run without tasks."""
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "task_weight/0" in line]
    if not lines:
        return {}
    ranges = read_json(folder / "weighting.json")["ranges"]
    steps = [line["step"] for line in lines]
    return {
        f"t in {item}": (steps, [line[f"task_weight/{j}"] for line in lines])
        for j, item in enumerate(ranges)
    }
