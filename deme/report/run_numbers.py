"""The numbers of a run as tables: its metrics, and what `deme improve` found. No torch here."""

from collections.abc import Mapping

from deme.report.terminal import TextTable
from deme.runs import BASE_IDEA, Metric, Outcome, Tried
from deme.system import digits_for


def metrics_table(metrics: Mapping[str, Metric]) -> TextTable:
    """Return a line for each metric: its value with its interval, and what it was measured by."""
    columns = ["metric", "value", "95% interval", "n", "better", "compared to", "computed by"]
    return TextTable("Numbers", columns, [_metric(name, of) for name, of in metrics.items()])


def _metric(name: str, metric: Metric) -> list[str]:
    places = digits_for(metric["value"])
    part = f" for t in {metric['range']}" if "range" in metric else ""
    ends = ", ".join(f"{end:.{places}f}" for end in metric.get("interval", ()))
    return [
        name + part,
        f"{metric['value']:.{places}f}",
        f"[{ends}]" if ends else "",
        f"{metric['n']:,}",
        metric["better"],
        metric["reference"],
        metric["implementation"],
    ]


def tried_table(outcome: Outcome) -> TextTable:
    """Return a line for each idea: its score, its cost and whether it was chosen or left out."""
    score = f"{outcome['metric']} on validation images"
    columns = ["idea", score, "forward passes", "seconds", "outcome"]
    lines = [_tried(one, outcome["idea"]) for one in outcome["tried"]]
    return TextTable("What was tried", columns, lines)


def _tried(tried: Tried, best: str) -> list[str]:
    score, left_out = tried["score"], tried.get("left_out")
    text = "--" if score is None else f"{score:.{digits_for(score)}f}"
    if tried["idea"] == BASE_IDEA:
        return ["before finetuning", text, "", "", ""]
    if left_out:
        return [tried["idea"], text, "", "", f"left out: {left_out}"]
    note = "chosen" if tried["idea"] == best else tried.get("note", "")
    passes, seconds = tried["num_forward_passes"], tried["seconds"]
    return [tried["idea"], text, f"{passes:,}", f"{seconds:,.0f}", note]


def judged_table(outcome: Outcome) -> TextTable:
    """Return a line for each metric on the test images: before, after, difference and verdict."""
    idea, number = outcome["idea"], outcome.get("num_test_images")
    title = "before finetuning" if idea == BASE_IDEA else f"{idea} against the base"
    title += f", {number:,} test images" if number else ""
    columns = ["metric", "before", "after", "difference (95% interval)", "verdict"]
    lines = []
    for name, row in outcome["metrics"].items():
        places = digits_for(row["before"])
        values = [f"{row[when]:.{places}f}" for when in ("before", "after")]
        lines.append([name, *values, row["difference"], row["verdict"]])
    return TextTable(title, columns, lines)
