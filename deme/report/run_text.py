"""The description of one run that `deme show` prints."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deme.report.run_numbers import metrics_table
from deme.report.run_settings import text_of
from deme.report.terminal import aligned
from deme.runs import (
    commit_of,
    cost_of,
    held_out_ends,
    metrics_of,
    provenance_of,
    sample_grids,
)
from deme.runs.lineage import Source, changed, command_again, given_overrides, lineage
from deme.runs.listing import ListedRun, folder_size
from deme.runs.run_files import RUN_FILES, damaged
from deme.system import ASSET, HUB, DemeError, digits_for, duration, single_line, size_text

NUM_LOG_LINES = 10


def run_text(run: ListedRun) -> str:
    """Return everything about a run, section by section."""
    parts = [
        ("", [*_head(run)]),
        ("made from", [*map(_source, lineage(run))]),
        ("set (default)", [*_changed(run)]),
        ("numbers", [*_numbers(run)]),
        ("files", [*_files(run.path)]),
        ("make it again", [*_again(run)]),
        ("log, last lines", log_lines(run) if run.state != "done" else []),
    ]
    shown = []
    for title, lines in parts:
        if lines:
            shown.append("\n".join([title, *(f"  {line}" for line in lines)] if title else lines))
    return "\n\n".join(shown)


def _head(run: ListedRun) -> Iterator[str]:
    yield str(run.path)
    total, step = run.settings.get("num_steps"), run.step
    far = f" at step {step:,} of {total:,}" if step and total else ""
    yield f"{run.stage} of suite {run.suite}: {run.state}{far}"
    if (what := damaged(run.path, run.status)) and run.state == "damaged":
        yield f"damaged: {what}"
    if error := run.status.get("error"):
        yield f"error: {error}"
    if run.time is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.time))
        what = "begun" if run.state == "running" else "ended"
        spent = run.status.get("seconds")
        took = f", took {duration(spent)} in all attempts" if spent else ""
        yield f"{what} {when}, {duration(max(0.0, time.time() - run.time))} ago{took}"


def _source(source: Source) -> str:
    state = "" if source.run is None else f" ({source.run.state})"
    elsewhere = source.name.startswith((ASSET, HUB)) or "/" not in source.name
    gone = " (not there)" if source.place is None and not elsewhere else ""
    return f"{'  ' * source.depth}{source.key}: {single_line(source.name)}{state}{gone}"


def _changed(run: ListedRun) -> Iterator[str]:
    """Yield the chosen options and settings, each value with its default."""
    found = changed(run)
    given = given_overrides(run) or []
    options = [word for word in given if word.partition("=")[0] not in run.settings]
    named = [word for word in options if "." not in word.partition("=")[0]]
    skipped = ("suite=", "data=image_folder", "model=diffusers")
    yield from (word for word in named if not word.startswith(skipped))
    for key, (value, default) in found.items():
        known = "" if default in (None, "???") else f" ({text_of(default)})"
        yield f"{key}={_whole(value)}{known}"


def _whole(value: Any) -> str:
    return single_line("null" if value is None else str(value))


def _numbers(run: ListedRun) -> list[str]:
    """Return a table of all metrics with their intervals, else the main number."""
    try:
        metrics, cost = metrics_of(run.path), cost_of(run.path)
    except DemeError as error:
        return [str(error)]
    found = []
    if metrics:
        _, titles, lines = metrics_table(metrics)
        found += aligned(titles, lines, (1, 2, 3)).split("\n")
    else:
        for name, one in run.numbers.items():
            mean = f", mean of the last {one['n']} logged steps" if one.get("n", 0) > 1 else ""
            found.append(f"{name} {one['value']:.{digits_for(one['value'])}f}{mean}")
    if (held_out := held_out_ends(run.path)) is not None:
        (begin, before), (end, after) = held_out
        places = digits_for(after)
        when = f"after {begin:,} steps" if begin else "before the training"
        first = f" ({when}: {before:.{places}f})" if begin < end else ""
        found.append(f"held-out loss {after:.{places}f} after {end:,} steps{first}")
    if cost is not None:
        found.append(f"cost: {cost:,} forward passes")
    return found


def files_of(path: Path) -> dict[str, int]:
    """Return the files and folders of a run with their sizes, weights/ by kind of weights."""
    found = {}
    try:
        places = sorted(place for place in path.iterdir() if place.name[0] != ".")
    except OSError:
        return {}
    for place in places:
        inside = sorted(place.iterdir()) if place.name == "weights" and place.is_dir() else [place]
        for each in (one for one in inside if one.name[0] != "."):
            name = each.relative_to(path).as_posix() + ("/" if each.is_dir() else "")
            found[name] = folder_size(each) if each.is_dir() else each.stat().st_size
    return found


def _files(path: Path) -> Iterator[str]:
    found = files_of(path)
    widest = max(map(len, found), default=0)
    for name, size in found.items():
        file = RUN_FILES.get(name.rstrip("/"))
        about = "" if file is None else file.about + (_grids(path) if name == "samples/" else "")
        yield f"{name:<{widest}}  {size_text(size):>9}  {about}".rstrip()
    if found:
        yield f"{'in all':<{widest}}  {size_text(sum(found.values())):>9}"


def _grids(path: Path) -> str:
    """Return the sample grids of a training; of many the first two and the last."""
    steps = [f"{step:,}" for step in sample_grids(path)]
    if not steps:
        return ""
    shown = steps if len(steps) < 6 else [*steps[:2], "...", steps[-1]]
    return f"; {len(steps)} grids step-<n>.png, n = {' '.join(shown)}"


def _again(run: ListedRun) -> Iterator[str]:
    command, folder = command_again(run)
    if command and folder not in ("", str(Path.cwd())):
        yield f"cd {folder}"
    if command:
        yield command
    made = _versions(run.path)
    if made:
        yield made


def _versions(path: Path) -> str:
    """Return which versions made a run."""
    made = provenance_of(path)
    if made is None or "deme" not in made:
        return ""
    commit = f", commit {commit_of(made)}" if commit_of(made) else ""
    torch = made.get("versions", {}).get("torch", "?")
    text = f"made with deme {made.get('deme', '?')}{commit}, torch {torch}, "
    return f"{text}Python {made.get('python', '?')} on {made.get('platform', '?')}"


def log_lines(run: ListedRun, number: int = NUM_LOG_LINES) -> list[str]:
    """Return the last messages in the log of a run."""
    try:
        with open(run.path / "log.txt", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 16)))
            lines = file.read(1 << 16).decode(errors="replace").splitlines()
    except OSError:
        return []
    return [single_line(line) for line in lines[-number:]]
