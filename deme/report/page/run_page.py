"""The page of one run: what it is, its numbers, curves, pictures and command."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml
from markupsafe import Markup
from PIL import Image

from deme import __version__
from deme.report import figures
from deme.report.page.bars import PageTable, with_keys
from deme.report.page.curves import read_curves, training_curves
from deme.report.page.drawing import inline_svg
from deme.report.page.history import environment
from deme.report.page.html import render
from deme.report.page.pictures import Picture, fitted
from deme.report.records import public_name
from deme.report.run_numbers import judged_table, metrics_table, tried_table
from deme.runs import (
    BASE_IDEA,
    Config,
    Metric,
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
from deme.system import digits_for, exists, model_folders, read_about


def run_page(folder: Path) -> str:
    """Return the page of a run directory as HTML."""
    frozen, status = frozen_config(folder), read_status(folder)
    made, outcome, metrics = provenance_of(folder), outcome_of(folder), metrics_of(folder)
    tables = [_measured(metrics)] if metrics else []
    if outcome is not None:
        tables += _outcome_tables(outcome)
    shown = _grids(folder, outcome)
    context = {
        "title": f"{frozen['stage']}: {folder.name}",
        "name": folder.parent.parent.name,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "state": status.get("state", "unknown"),
        "error": status.get("error", ""),
        "seconds": status.get("seconds", 0.0),
        "conclusion": _conclusion(metrics, outcome),
        "facts": _facts(folder, frozen, made),
        "tables": tables,
        "pictures": shown,
        "others": _other_pictures(folder),
        "curves": _curves(folder),
        "command": command_again(read_run(folder))[0],
        "environment": environment([folder]),
        "config": yaml.safe_dump(frozen, sort_keys=False, allow_unicode=True),
    }
    return render("run.html.jinja", context)


def _conclusion(metrics: Mapping[str, Metric], outcome: Outcome | None) -> str:
    if outcome is not None:
        metric = outcome["metric"]
        row = outcome["metrics"][metric]
        ends = f"{metric} {row['difference']}, {row['verdict']}"
        if outcome["better"]:
            return f"The idea {outcome['idea']} is better than the base: {ends}."
        if outcome["idea"] == BASE_IDEA:
            return "No idea made a model that differs from the base."
        found = f"No idea is better than the base; the best is {outcome['idea']}: {ends}."
        if (smallest := outcome.get("detectable")) is None:
            return found
        return f"{found} An improvement by {smallest:.2g} would have been detected with 80% power."
    main = [(name, of) for name, of in metrics.items() if "/" not in name]
    return ", ".join(f"{name} = {of['value']:.{digits_for(of['value'])}f}" for name, of in main)


def _facts(folder: Path, frozen: Config, made: Provenance | None) -> dict[str, str]:
    """Return the labels and inputs of a run, and its model's timestep range and merge weights."""
    cell = frozen.get("cell") or {}
    facts = {str(key): str(value) for key, value in cell.items() if value is not None}
    for name, places in made["inputs"].items() if made else ():
        if places:
            facts[name] = ", ".join(public_name(place) for place in places)
    models = model_folders(folder)
    about = read_about(models[0]) if models else {}
    if timesteps := about.get("range"):
        facts["range of timesteps"] = f"[{timesteps[0]}, {timesteps[1]})"
    if weights := about.get("weights"):
        facts["merge weights"] = ", ".join(f"{weight:.4g}" for weight in weights)
    return facts


def _measured(metrics: Mapping[str, Metric]) -> PageTable:
    keys = [
        (name, of["value"], None, of["n"], of["better"], of["reference"], of["implementation"])
        for name, of in metrics.items()
    ]
    return with_keys(metrics_table(metrics), keys)


def _outcome_tables(outcome: Outcome) -> list[PageTable]:
    judged = [
        (name, row["before"], row["after"], None, row["verdict"])
        for name, row in outcome["metrics"].items()
    ]
    tried = [
        (one["idea"], one["score"], one["num_forward_passes"], one["seconds"], "")
        for one in outcome["tried"]
    ]
    return [with_keys(judged_table(outcome), judged), with_keys(tried_table(outcome), tried)]


def _grids(folder: Path, outcome: Outcome | None) -> list[Picture]:
    """Return the sample grids of the run, or of improve's evaluations from the same noise."""
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
    """Return the figures that the run wrote, such as the progress of a search."""
    files = sorted(folder.glob("*.png"))
    images: list[tuple[str, Image.Image]] = [
        (file.stem.replace("_", " "), figures.picture(file)) for file in files
    ]
    return [fitted(label, "", image, len(images)) for label, image in images]


def _curves(folder: Path) -> Markup | None:
    loss, held_out = read_curves(folder)
    panels = {"training loss": {"": [loss]}} if loss is not None else {}
    if held_out:
        panels["held-out loss"] = {name: [each] for name, each in held_out.items()}
    if not panels:
        return None
    return inline_svg(training_curves(panels), " and ".join(panels))
