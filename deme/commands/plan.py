"""`deme plan`: what a table needs, before any work: state, command, cost, memory and the smallest difference it could find."""

from rich.console import Console
from rich.table import Table

from deme.builders.memory import memory_lines
from deme.report.statistics import smallest_detectable
from deme.runs.inputs import read_status
from deme.runs.run import say
from deme.runs.suite import Suite


def run(suite: Suite, jobs: int = 1, tflops: float | None = None) -> int:
    """Print the plan for `jobs` processes, or for a device that computes at `tflops`; return 0."""
    screen = Table(title=f"{suite.name}: {suite.file}")
    for column in ("run", "state", "million forward passes"):
        screen.add_column(column, justify="right" if column.startswith("million") else "left")
    for node in suite.nodes:
        screen.add_row(node.title, node.state, f"{node.num_forward_passes / 1e6:.2f}")
    Console(width=max(Console().width, 100)).print(screen)
    open_nodes = [node for node in suite.nodes if node.state != "done"]
    done = [node for node in suite.nodes if node.state == "done" and node.num_forward_passes]
    settings = suite.spec.get("plan", {})
    measured = (
        sum(read_status(n.run.path)["seconds"] for n in done if n.run)
        / sum(n.num_forward_passes for n in done)
        if done
        else None
    )
    rate = measured or settings.get("seconds_per_million_forwards", 0) / 1e6
    cost = sum(node.num_forward_passes for node in open_nodes)
    source = "as this machine's finished runs took" if measured else "as noted in the suite"
    processes = "one process" if jobs == 1 else f"{jobs} processes"
    say(
        f"{len(suite.nodes) - len(open_nodes)} of {len(suite.nodes)} runs done; {cost / 1e6:.1f} million forward passes to go"
        + (
            f", about {cost * rate / 60 / jobs:.0f} minutes in {processes} ({source})"
            if rate and cost
            else ""
        )
    )
    if "gflop_per_forward" in settings and cost:
        total = cost * settings["gflop_per_forward"] / 1e6  # PFLOP
        at = (
            f", {total * 1e3 / tflops / 3600:.2f} hours at {tflops:g} TFLOP/s"
            if tflops
            else "; for hours type: tflops=<what your device does>"
        )
        say(
            f"that is {total:,.0f} PFLOP ({settings['gflop_per_forward']:g} GFLOP a forward pass){at}"
        )
    for line in memory_lines(suite):
        say(line)
    for node in [node for node in open_nodes if node.state not in ("waiting", "lacking")][:20]:
        say(f"  {node.command}")
    waiting = sum(node.state == "waiting" for node in open_nodes)
    if waiting:
        say(f"  ... and {waiting} more that wait for these")
    for lack in dict.fromkeys(
        str(node.missing_file) for node in open_nodes if node.missing_file is not None
    ):
        say(
            f"  {sum(str(node.missing_file) == lack for node in open_nodes)} runs cannot start: {lack}"
        )
    for path in suite.stale():
        say(f"  stale, made by an older config: {path}")
    num_seeds, num_samples = len(suite.spec["finetune_seeds"]), len(suite.spec["sample_seeds"])
    for metric, sd in settings.get("paired_sd", {}).items():
        smallest = smallest_detectable(sd["sampling"], num_samples, sd["finetuning"], num_seeds)
        say(
            f"smallest difference in {metric} to {suite.spec['baseline']} found with 80% power at {num_seeds} finetuning x {num_samples} "
            f"sampling seeds: {smallest:.2g} (paired sd {sd['sampling']} by sampling, {sd['finetuning']} by finetuning, noted in the suite)"
        )
    return 0
