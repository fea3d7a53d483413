"""`deme plan`: show the runs, cost, time, memory and power of a table, done and missing.

Nothing is started. Power is the smallest difference that the table can detect.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from deme.commands.costs import rate_of
from deme.commands.slurm_queue import SlurmQueue
from deme.commands.training_memory import memory_lines
from deme.report.statistics import smallest_detectable
from deme.report.terminal import text_table
from deme.runs import (
    BLOCKED,
    Node,
    PairedSpread,
    Suite,
    SuiteOptions,
    SuiteSettings,
    row_and_base,
)
from deme.system import MissingInput, duration, exists, first_line, print_result

NUM_COMMANDS = 5  # that are shown, without all=true


def run(suite: Suite, options: SuiteOptions) -> None:
    """Print the plan for some processes (`jobs`), or for a device that computes at `tflops`."""
    states = {node: node.state for node in suite.nodes}
    passes = {node: node.num_forward_passes for node in suite.nodes}
    lines = [f"{suite.title} ({suite.file})", _counts(states.values())]
    lines += [f"  {line}" for line in _costs(suite, states, passes, options)]
    lines += [f"  slurm: {line}" for line in _queued(suite)]
    lines += [f"  {line}" for line in memory_lines(suite)]
    lines += [f"  {line}" for line in _power(suite)]
    print_result("\n".join(lines))
    print_result(_table(suite, states, passes, options.all))
    print_result("\n".join(_next(suite, states, options.all)))


def _counts(states: Iterable[str]) -> str:
    """Return "3 of 10 runs done, 2 ready, 5 waiting for others"."""
    counts = Counter(states)
    total = counts.total()
    names = {"waiting": "waiting for other runs", "missing_file": "without a file that they need"}
    texts = [f"{counts.pop('done', 0)} of {total} runs done"]
    return ", ".join([*texts, *(f"{n} {names.get(state, state)}" for state, n in counts.items())])


def _costs(
    suite: Suite, states: dict[Node, str], passes: dict[Node, int], options: SuiteOptions
) -> Iterator[str]:
    settings, jobs, tflops = suite.settings.plan, options.jobs, options.tflops
    cost = sum(passes[node] for node, state in states.items() if state != "done")
    rate, time = rate_of(suite, states, passes), ""
    if rate is not None and cost:
        source = "finished runs on this machine" if rate.is_measured else "the suite's estimate"
        processes = "one process" if jobs == 1 else f"{jobs} processes"
        time = f", about {duration(cost * rate.seconds / jobs)} in {processes} (from {source})"
    elif cost:
        time = "; how long that takes is known once some of its runs are done"
    passes_left = f"{cost / 1e6:,.1f} million" if cost >= 1e6 else f"{cost:,}"
    yield f"cost: {passes_left} forward passes left{time}"
    if settings.gflop_per_forward_pass and cost:
        petaflop = cost * settings.gflop_per_forward_pass / 1e6
        text = f"cost: {petaflop:,.0f} PFLOP ({settings.gflop_per_forward_pass:g} GFLOP a pass)"
        if tflops:
            yield f"{text}, {petaflop * 1e3 / tflops / 3600:.2f} hours at {tflops:g} TFLOP/s"
        else:
            yield f"{text}; for hours type: tflops=<TFLOP/s of your device>"


def _queued(suite: Suite) -> list[str]:
    """Return what launcher=slurm has queued for a suite that is running or waiting in the queue."""
    queue = SlurmQueue(suite)
    if not exists(queue.folder):
        return []
    try:
        return queue.lines(queue.states())
    except MissingInput as error:
        return [first_line(error)]


def _power(suite: Suite) -> Iterator[str]:
    """Yield what differences are found, once for bases of which that is the same."""
    settings = suite.settings
    metrics = dict.fromkeys(row_and_base(name)[0] for name in settings.plan.paired_sd)
    if not metrics:
        yield (
            "power: unknown, as it needs the standard deviation of differences between seeds;\n"
            "    a finished table like this one shows it, for plan.paired_sd (docs/suites.md)"
        )
    for metric in metrics:
        lines: dict[str, list[str | None]] = {}
        for base in settings.starts:
            sd = settings.plan.paired_sd.get(
                f"{metric}@{base}", settings.plan.paired_sd.get(metric)
            )
            if sd is not None:
                text = _power_of(settings, metric, sd, len(settings.pretrain_seeds_of(base)))
                lines.setdefault(text, []).append(base)
        for text, bases in lines.items():
            named = ", ".join(str(base) for base in bases)
            yield text if bases == [None] else f"within {named}: {text}"


def _power_of(settings: SuiteSettings, metric: str, sd: PairedSpread, num_bases: int) -> str:
    seeds, samples = len(settings.finetune_seeds), len(settings.sample_seeds)
    smallest = smallest_detectable(
        sd.sampling, samples, sd.finetuning, seeds, sd.pretraining or 0.0, num_bases
    )
    several = num_bases > 1
    pretraining = (
        f", {sd.pretraining or 0:g}{' (not given)' if sd.pretraining is None else ''} from "
    )
    alone = " (for this one finetuning seed: the spread between seeds is unknown)"
    return (
        f"power: a difference in {metric} to {settings.baseline} of {smallest:.2g} is detected "
        f"with 80% power, at {f'{num_bases} pretraining x ' if several else ''}{seeds} "
        f"finetuning x {samples} sampling seeds{alone if seeds == 1 else ''}\n"
        f"    (paired standard deviation {sd.sampling:g} from sampling, {sd.finetuning:g} from "
        f"finetuning{f'{pretraining}pretraining' if several else ''}, from "
        f"{settings.plan.paired_sd_from})"
    )


def _table(suite: Suite, states: dict[Node, str], passes: dict[Node, int], all_runs: bool) -> str:
    """Return a line per row of the table, or per run, in the order of the suite."""
    lines = []
    rows: dict[str, list[Node]] = {}
    for node in _in_suite_order(suite):
        rows.setdefault(node.row_and_base, []).append(node)
    found = [*rows.values()]
    groups = [[node] for nodes in found for node in nodes] if all_runs else found
    for nodes in groups:
        counts = Counter(states[node] for node in nodes)
        state = ", ".join(f"{n} {state}" for state, n in counts.items())
        total = sum(passes[node] for node in nodes) / 1e6
        cost = f"{total:.2f}" if total >= 0.1 else f"{total:.5f}"
        lines.append(
            [nodes[0].title, _state(nodes[0], states[nodes[0]]), cost]
            if all_runs
            else [nodes[0].row_and_base, f"{len(nodes)}", state, cost]
        )
    columns = ["run", "state"] if all_runs else ["row", "runs", "state"]
    return text_table(None, [*columns, "million forward passes"], lines, len(columns))


def _state(node: Node, state: str) -> str:
    """Return the state of a run; of one that is running, with the SLURM job that runs it."""
    job = node.run.status.get("job") if state == "running" and node.run is not None else None
    return state if job is None else f"{state} (job {job})"


def _in_suite_order(suite: Suite) -> list[Node]:
    """Return the runs base by base, those without a base first, in the order of their rows."""
    bases = {name: number for number, name in enumerate([None, *suite.settings.bases])}
    rows = {row.name: number for number, row in enumerate(suite.settings.rows)}
    return sorted(suite.nodes, key=lambda node: (bases[node.base_name], rows[node.row]))


def _next(suite: Suite, states: dict[Node, str], all_runs: bool) -> Iterator[str]:
    startable = [node for node, state in states.items() if state not in ("done", *BLOCKED)]
    if startable:
        how = " launcher=slurm" if SlurmQueue(suite).read()["workers"] else ""
        yield f"next: deme reproduce {suite.file}{how}, or by hand:"
    shown = startable if all_runs else startable[:NUM_COMMANDS]
    yield from (f"  {node.command}" for node in shown)
    waiting = sum(state == "waiting" for state in states.values())
    if more := len(startable) - len(shown) + waiting:
        hint = "" if all_runs else "; type: all=true"
        yield f"  ... and {more} more runs, {waiting} of which wait for others{hint}"
    for missing, count in Counter(
        str(node.missing_file) for node in states if node.missing_file is not None
    ).items():
        yield f"{count} runs cannot start: {missing}"
    yield from (f"stale, made with other settings: {path}" for path in suite.stale())
