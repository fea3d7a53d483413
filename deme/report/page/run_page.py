"""The page of one run: what it is, its numbers, curves and pictures, and how to make it again."""

from datetime import UTC, datetime
from pathlib import Path

import yaml
from markupsafe import Markup
from PIL import Image

from deme import __version__
from deme.report import figures
from deme.report.page.bars import PageCell, PageTable
from deme.report.page.curves import held_out_curves, loss_curve, training_curves
from deme.report.page.drawing import inline_svg
from deme.report.page.history import environment
from deme.report.page.html import render
from deme.report.page.pictures import Picture, fitted
from deme.report.records import public_name
from deme.report.tables import format_count
from deme.runs import (
    BASE_IDEA,
    Outcome,
    Provenance,
    frozen_config,
    metrics_of,
    outcome_of,
    provenance_of,
    read_status,
    sample_grid,
)
from deme.runs.lineage import command_again
from deme.runs.listing import read_run
from deme.system import digits_for, exists, read_about


def run_page(folder: Path) -> str:
    """Return the page of a run directory as HTML."""
    frozen, status = frozen_config(folder), read_status(folder)
    made = provenance_of(folder)
    outcome = outcome_of(folder)
    shown = _grids(folder, outcome)
    context = {
        "title": f"{frozen['stage']}: {folder.name}",
        "name": folder.parent.parent.name,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "state": status.get("state", "unknown"),
        "error": status.get("error", ""),
        "seconds": status.get("seconds", 0.0),
        "conclusion": _conclusion(folder, outcome),
        "facts": _facts(folder, made),
        "tables": [*_measured(folder), *(_outcome_tables(outcome) if outcome else ())],
        "pictures": shown,
        "others": _other_pictures(folder),
        "curves": _curves(folder),
        "command": command_again(read_run(folder))[0],
        "environment": environment([folder]),
        "config": yaml.safe_dump(frozen, sort_keys=False, allow_unicode=True),
    }
    return render("run.html.jinja", context)


def _conclusion(folder: Path, outcome: Outcome | None) -> str:
    if outcome is not None:
        metric = outcome["metric"]
        row = outcome["metrics"][metric]
        ends = f"{metric} {row['difference']}, {row['verdict']}"
        if outcome["better"]:
            return f"The idea {outcome['idea']} is better than the base: {ends}."
        if outcome["idea"] == BASE_IDEA:
            return "No idea made a model that differs from the base."
        found = f"No idea is better than the base; the best is {outcome['idea']}: {ends}."
        smallest = outcome.get("detectable")
        power = f" An improvement by {smallest or 0:.2g} would have been detected."
        return found if smallest is None else found + power
    metrics = metrics_of(folder)
    main = [(name, of) for name, of in metrics.items() if "/" not in name]
    return ", ".join(f"{name} = {of['value']:.{digits_for(of['value'])}f}" for name, of in main)


def _facts(folder: Path, made: Provenance | None) -> dict[str, str]:
    """Return the cell and the inputs, and the ranges and weights of a model."""
    cell = frozen_config(folder).get("cell") or {}
    facts = {str(key): str(value) for key, value in cell.items() if value is not None}
    for name, places in made["inputs"].items() if made else ():
        if places:
            facts[name] = ", ".join(public_name(place) for place in places)
    models = sorted((folder / "weights").glob("*/deme.json"))
    about = read_about(models[0].parent) if models else None
    if about and (timesteps := about.get("range")):
        facts["range of timesteps"] = f"[{timesteps[0]}, {timesteps[1]})"
    if about and (weights := about.get("weights")):
        facts["merge weights"] = ", ".join(f"{weight:.4g}" for weight in weights)
    return facts


def _measured(folder: Path) -> list[PageTable]:
    lines = []
    for name, of in metrics_of(folder).items():
        places = digits_for(of["value"])
        interval = of.get("interval")
        bounds = f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]" if interval else ""
        part = f" for t in {of['range']}" if "range" in of else ""
        lines.append(
            [
                PageCell(name + part, name),
                PageCell(f"{of['value']:.{places}f}", of["value"]),
                PageCell(bounds),
                PageCell(f"{of['n']:,}", of["n"]),
                PageCell(of["better"], of["better"]),
                PageCell(of["reference"], of["reference"]),
                PageCell(of["implementation"], of["implementation"]),
            ]
        )
    columns = ["metric", "value", "95% interval", "n", "better", "against", "implementation"]
    return [PageTable("Numbers", columns, lines)] if lines else []


def _outcome_tables(outcome: Outcome) -> list[PageTable]:
    metric = outcome["metric"]
    tried = [
        [
            PageCell("before finetuning" if one["idea"] == BASE_IDEA else one["idea"]),
            PageCell("" if one["score"] is None else f"{one['score']:.5g}", one["score"]),
            PageCell(format_count(one["num_forward_passes"]), one["num_forward_passes"]),
            PageCell(f"{one['seconds']:,.0f}", one["seconds"]),
            PageCell(
                f"left out: {one['left_out']}"
                if one.get("left_out")
                else one.get("note") or "chosen" * (one["idea"] == outcome["idea"]),
                "",
            ),
        ]
        for one in outcome["tried"]
    ]
    judged = [
        [
            PageCell(name, name),
            PageCell(f"{row['before']:.{digits_for(row['before'])}f}", row["before"]),
            PageCell(f"{row['after']:.{digits_for(row['before'])}f}", row["after"]),
            PageCell(row["difference"]),
            PageCell(row["verdict"], row["verdict"]),
        ]
        for name, row in outcome["metrics"].items()
    ]
    return [
        PageTable(
            "The base, on test images"
            if outcome["idea"] == BASE_IDEA
            else f"{outcome['idea']} against the base, on test images",
            ["metric", "before", "after", "difference (95% interval)", "verdict"],
            judged,
        ),
        PageTable(
            "What was tried, on validation images",
            ["idea", metric, "forward passes", "seconds", "outcome"],
            tried,
        ),
    ]


def _grids(folder: Path, outcome: Outcome | None) -> list[Picture]:
    """Return the sample grids: the run's own, or those of improve's evaluations from one noise."""
    found = {folder.name: sample_grid(folder)}
    if outcome is not None:
        for place in sorted((folder / "evaluate").glob("*")):
            name = str((frozen_config(place).get("cell") or {}).get("method"))
            if not name.startswith("score_"):
                label = "before finetuning" if name == BASE_IDEA else name
                found.setdefault(label, sample_grid(place))
    images = [(label, figures.picture(file)) for label, file in found.items() if exists(file)]
    return [fitted(label, "", image, len(images)) for label, image in images]


def _other_pictures(folder: Path) -> list[Picture]:
    """Return the figures that the run wrote, such as the course of a search."""
    files = sorted(folder.glob("*.png"))
    images: list[tuple[str, Image.Image]] = [
        (file.stem.replace("_", " "), figures.picture(file)) for file in files
    ]
    return [fitted(label, "", image, len(images)) for label, image in images]


def _curves(folder: Path) -> Markup | None:
    curve = loss_curve(folder)
    panels = {"training loss": {"": [curve]}} if curve is not None else {}
    if held_out := held_out_curves(folder):
        panels["held-out loss"] = {name: [each] for name, each in held_out.items()}
    if not panels:
        return None
    return inline_svg(training_curves(panels), " and ".join(panels))
