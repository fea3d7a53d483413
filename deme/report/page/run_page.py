"""The page of one run: what it is, its numbers, curves and pictures, and how to make it again."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml
from markupsafe import Markup
from PIL import Image

from deme import __version__
from deme.report import figures
from deme.report.page.bars import Cell, PageTable
from deme.report.page.curves import held_out_curves, loss_curve, training_curves
from deme.report.page.drawing import inline_svg
from deme.report.page.history import environment
from deme.report.page.html import render
from deme.report.page.pictures import Picture, fitted
from deme.report.records import public_name
from deme.report.statistics import digits_for
from deme.runs import Metric, Metrics, Outcome, Provenance, frozen_config, read_status
from deme.system import exists, read_about, read_json

GRID = Path("samples", "grid.png")
GIVEN = "before"  # the given model among the ideas of `deme improve`


def run_page(folder: Path) -> str:
    """Return the page of a run directory as HTML."""
    frozen, status = frozen_config(folder), read_status(folder)
    made = read_json(folder / "run.json", Provenance) if exists(folder / "run.json") else None
    outcome = _outcome(folder)
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
        "command": shlex.join(["deme", *made.get("command", [])]) if made else "",
        "environment": environment([folder]),
        "config": yaml.safe_dump(frozen, sort_keys=False, allow_unicode=True),
    }
    return render("run.html.jinja", context)


def _outcome(folder: Path) -> Outcome | None:
    """Return what `deme improve` found; None for a run of another verb, or one not done."""
    file = folder / "outcome.json"
    return read_json(file, Outcome) if exists(file) else None


def _conclusion(folder: Path, outcome: Outcome | None) -> str:
    if outcome is not None:
        metric = outcome["metric"]
        row = outcome["metrics"][metric]
        ends = f"{metric} {row['difference']} ({row['verdict']})"
        if outcome["better"]:
            return f"The idea {outcome['idea']} is better than the given model: {ends}."
        if outcome["idea"] == GIVEN:
            return "No idea made another model than the given one."
        found = f"No idea is better than the given model; the best, {outcome['idea']}: {ends}."
        smallest = outcome.get("detectable")
        power = f" An improvement by {smallest or 0:.2g} would have been found."
        return found if smallest is None else found + power
    metrics = _metrics(folder)
    main = [(name, of) for name, of in metrics.items() if "/" not in name]
    return ", ".join(f"{name} = {of['value']:.{digits_for(of['value'])}f}" for name, of in main)


def _metrics(folder: Path) -> Mapping[str, Metric]:
    file = folder / "metrics.json"
    return read_json(file, Metrics)["metrics"] if exists(file) else {}


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
    for name, of in _metrics(folder).items():
        places = digits_for(of["value"])
        interval = of.get("interval")
        bounds = f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]" if interval else ""
        part = f" for t in {of['range']}" if "range" in of else ""
        lines.append(
            [
                Cell(name + part, name),
                Cell(f"{of['value']:.{places}f}", of["value"]),
                Cell(bounds),
                Cell(f"{of['n']:,}", of["n"]),
                Cell(of["better"], of["better"]),
                Cell(of["reference"], of["reference"]),
                Cell(of["implementation"], of["implementation"]),
            ]
        )
    columns = ["metric", "value", "95% interval", "n", "better", "against", "implementation"]
    return [PageTable("Numbers", columns, lines)] if lines else []


def _outcome_tables(outcome: Outcome) -> list[PageTable]:
    metric = outcome["metric"]
    tried = [
        [
            Cell("the given model" if one["idea"] == GIVEN else one["idea"]),
            Cell("" if one["score"] is None else f"{one['score']:.5g}", one["score"]),
            Cell(f"{one['num_forward_passes'] / 1e6:.2f}", one["num_forward_passes"]),
            Cell(f"{one['seconds']:,.0f}", one["seconds"]),
            Cell(
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
            Cell(name, name),
            Cell(f"{row['before']:.{digits_for(row['before'])}f}", row["before"]),
            Cell(f"{row['after']:.{digits_for(row['before'])}f}", row["after"]),
            Cell(row["difference"]),
            Cell(row["verdict"], row["verdict"]),
        ]
        for name, row in outcome["metrics"].items()
    ]
    return [
        PageTable(
            "The given model, on test images"
            if outcome["idea"] == GIVEN
            else f"{outcome['idea']} against the given model, on test images",
            ["metric", "before", "after", "difference (95% interval)", "verdict"],
            judged,
        ),
        PageTable(
            "What was tried, on validation images",
            ["idea", metric, "million forward passes", "seconds", "outcome"],
            tried,
        ),
    ]


def _grids(folder: Path, outcome: Outcome | None) -> list[Picture]:
    """Return the sample grids: the run's own, or those of improve's evaluations from one noise."""
    found = {folder.name: folder / GRID}
    if outcome is not None:
        for place in sorted((folder / "evaluate").glob("*")):
            name = str((frozen_config(place).get("cell") or {}).get("method"))
            if not name.startswith("score_"):
                label = "the given model" if name == GIVEN else name
                found.setdefault(label, place / GRID)
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
